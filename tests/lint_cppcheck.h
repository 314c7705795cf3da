/* For cppcheck, which does not read the system's headers: the macros of sys/queue.h that would
 * otherwise be syntax errors. */
#define LIST_HEAD(name, type)                                                                      \
	struct name {                                                                              \
		struct type *lh_first;                                                             \
	}
#define LIST_ENTRY(type)                                                                           \
	struct {                                                                                   \
		struct type *le_next, **le_prev;                                                   \
	}
#define LIST_FOREACH(var, head, field)                                                             \
	for ((var) = (head)->lh_first; (var) != NULL; (var) = (var)->field.le_next)
