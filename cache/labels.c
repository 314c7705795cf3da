/* Immutable, counted sets of labels. */
#include "cache/labels.h"

#include "cache/mem.h"
#include "cache/store.h"

struct cairn_labels *labels_ref(struct cairn_labels *l)
{
	if (l != NULL) atomic_fetch_add(&l->refs, 1);
	return l;
}

void labels_unref(struct cairn_labels *l)
{
	if (l != NULL && atomic_fetch_sub(&l->refs, 1) == 1) free(l);
}

static int by_key(const void *a, const void *b)
{
	return strcmp(((const struct cairn_label *)a)->key, ((const struct cairn_label *)b)->key);
}

/* One block: the struct, the list, the strings. */
static struct cairn_labels *build(const struct cairn_label *list, size_t n)
{
	if (n == 0) return NULL;
	size_t bytes = 0;
	for (size_t i = 0; i < n; i++) bytes += strlen(list[i].key) + strlen(list[i].value) + 2;
	struct cairn_labels *l = mem_zero(sizeof(*l) + n * sizeof(l->list[0]) + bytes);
	char *p = (char *)&l->list[n];
	for (size_t i = 0; i < n; i++) {
		l->list[i].key = p;
		p = stpcpy(p, list[i].key) + 1;
		l->list[i].value = p;
		p = stpcpy(p, list[i].value) + 1;
	}
	atomic_init(&l->refs, 1);
	l->n = n;
	qsort(l->list, n, sizeof(l->list[0]), by_key);
	return l;
}

static bool is_set(const struct cairn_label *l)
{
	return l->value != NULL && l->value[0] != '\0';
}

/* Does a later entry of the list, or an earlier set, name the same key? The last one wins. */
static bool named(const struct cairn_label *list, size_t n, const char *key)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i].key, key) == 0) return true;
	}
	return false;
}

static enum cairn_code check(const struct cairn_label *list, size_t n, struct cairn_err *err)
{
	if (n > CAIRN_LABELS_MAX) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "%zu labels: at most %d are kept for one blob", n,
				     CAIRN_LABELS_MAX);
	}
	for (size_t i = 0; i < n; i++) {
		size_t value = list[i].value != NULL ? strlen(list[i].value) : 0;
		if (list[i].key == NULL || list[i].key[0] == '\0') {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "label without a key");
		}
		if (strlen(list[i].key) + value > CAIRN_LABEL_BYTES_MAX) {
			return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					     "label \"%.64s\": key and value have %zu bytes, at "
					     "most %d are allowed",
					     list[i].key, strlen(list[i].key) + value,
					     CAIRN_LABEL_BYTES_MAX);
		}
	}
	return CAIRN_OK;
}

enum cairn_code labels_change(const struct cairn_labels *old, const struct cairn_label *list,
			      size_t n, bool replace_all, struct cairn_labels **ret,
			      struct cairn_err *err)
{
	enum cairn_code code = check(list, n, err);
	if (code != CAIRN_OK) return code;
	size_t old_n = old != NULL && !replace_all ? old->n : 0, m = 0;
	struct cairn_label *all = mem_zero((old_n + n) * sizeof(*all));
	for (size_t i = 0; i < old_n; i++) {
		if (!named(list, n, old->list[i].key)) all[m++] = old->list[i];
	}
	for (size_t i = 0; i < n; i++) {
		if (is_set(&list[i]) && !named(list + i + 1, n - i - 1, list[i].key)) {
			all[m++] = list[i];
		}
	}
	if (m > CAIRN_LABELS_MAX) {
		code = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "the blob would have %zu labels: at most %d are kept", m,
				     CAIRN_LABELS_MAX);
	} else {
		*ret = build(all, m);
	}
	free(all);
	return code;
}

void *labels_pack(const struct cairn_labels *l, size_t *len)
{
	*len = 0;
	if (l == NULL) return NULL;
	for (size_t i = 0; i < l->n; i++) {
		*len += strlen(l->list[i].key) + strlen(l->list[i].value) + 2;
	}
	char *data = mem_zero(*len), *p = data;
	for (size_t i = 0; i < l->n; i++) {
		p = stpcpy(p, l->list[i].key) + 1;
		p = stpcpy(p, l->list[i].value) + 1;
	}
	return data;
}

/* Anything that is no list of pairs ends it: the index is only as good as its disk. */
struct cairn_labels *labels_unpack(const void *data, size_t n)
{
	struct cairn_label list[CAIRN_LABELS_MAX];
	const char *p = data, *end = p != NULL ? p + n : p;
	size_t m = 0;
	while (p < end && m < CAIRN_LABELS_MAX) {
		const char *key_end = memchr(p, '\0', (size_t)(end - p));
		if (key_end == NULL || key_end + 1 >= end) break;
		const char *value_end = memchr(key_end + 1, '\0', (size_t)(end - key_end - 1));
		if (value_end == NULL) break;
		list[m++] = (struct cairn_label){p, key_end + 1};
		p = value_end + 1;
	}
	return build(list, m);
}
