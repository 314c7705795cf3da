#include "cmd/cairnctl_progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"

#define LINE_NS (2 * CAIRN_NS_PER_S) /* between two lines of progress in a pipe */

int64_t ctl_now_ns(void)
{
	return cairn_boot_ns(&cairn_clock_system);
}

void ctl_terminal_size(size_t *ret_columns, size_t *ret_rows)
{
	struct winsize size;
	const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0;
	*ret_columns = known && size.ws_col > 0 ? size.ws_col : 80;
	*ret_rows = known && size.ws_row > 0 ? size.ws_row : 24;
}

void ctl_progress_draw(struct ctl_progress *p, const char *const *lines, size_t n)
{
	if (p->shown > 1) printf("\033[%zuA", p->shown - 1);
	for (size_t i = 0; i < n; i++) printf("%c%s\033[K", i == 0 ? '\r' : '\n', lines[i]);
	if (n < p->shown) printf("\033[J");
	p->shown = n;
	p->drawn_ns = ctl_now_ns();
}

void ctl_progress_clear(struct ctl_progress *p)
{
	if (p->shown > 1) printf("\033[%zuA", p->shown - 1);
	if (p->shown > 0) printf("\r\033[J");
	p->shown = 0;
}

bool ctl_progress_due(struct ctl_progress *p)
{
	const int64_t now = ctl_now_ns();
	if (p->line_ns == 0) p->line_ns = now;
	if (now - p->line_ns < LINE_NS) return false;
	p->line_ns = now;
	return true;
}
