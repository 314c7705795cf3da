/* How long work shows that it goes on: on a terminal lines that are redrawn in place, in a pipe a
 * line now and then. Threads: one. */
#ifndef CAIRN_CMD_CAIRNCTL_PROGRESS_H
#define CAIRN_CMD_CAIRNCTL_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cmd/cairnctl_format.h"

/* Zero at first. */
struct ctl_progress {
	struct ctl_rate rate;
	int64_t line_ns;  /* when the last line was printed into a pipe */
	int64_t drawn_ns; /* when the terminal was drawn */
	size_t shown;	  /* lines that stand on the terminal and will be drawn over */
};

int64_t ctl_now_ns(void);

/* Of the terminal that standard output is; 80 and 24 if it does not say. */
void ctl_terminal_size(size_t *ret_columns, size_t *ret_rows);

/* Put these lines in place of those that stand there; each must be shorter than the terminal is
 * wide. */
void ctl_progress_draw(struct ctl_progress *p, const char *const *lines, size_t n);

/* Take the lines away, before one that stays is printed. */
void ctl_progress_clear(struct ctl_progress *p);

/* Is a line in a pipe due? At most one in two seconds, and none in the first two. */
bool ctl_progress_due(struct ctl_progress *p);

#endif
