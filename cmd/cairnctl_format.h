/* Numbers as people read them. Pure functions; each returns its buffer. */
#ifndef CAIRN_CMD_CAIRNCTL_FORMAT_H
#define CAIRN_CMD_CAIRNCTL_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#define CTL_TEXT 64

/* "512 B", "1.5 KiB", "20.0 MiB" */
const char *ctl_format_bytes(int64_t bytes, char buf[static CTL_TEXT]);

/* "7 s", "5 min", "3 h", "12 d"; "now" for less than a second */
const char *ctl_format_span(int64_t seconds, char buf[static CTL_TEXT]);

/* "0:07", "12:05", "3:00:12" */
const char *ctl_format_left(int64_t seconds, char buf[static CTL_TEXT]);

/* RFC 3339 in UTC, whole seconds; "-" for 0 */
const char *ctl_format_time(int64_t seconds, char buf[static CTL_TEXT]);

/* How fast work goes: a mean that forgets, so that the rate follows the present. Zero at first. */
struct ctl_rate {
	int64_t started_ns, last_ns;
	int64_t last_done;
	double per_s;
};

/* done is what is done in all at now_ns. */
void ctl_rate_add(struct ctl_rate *rate, int64_t now_ns, int64_t done);

/* Seconds until total is reached at that rate; -1 if that cannot be said. */
int64_t ctl_rate_left(const struct ctl_rate *rate, int64_t total);

/* "[=====>    ]", width bytes in all (at least 4), for done of total. */
const char *ctl_format_bar(int64_t done, int64_t total, size_t width, char *buf, size_t cap);

/* The numbers "major.minor" in what `containerd --version` prints, or in "1.7", "v2", "2.x".
 * Returns 0 if there are none. A missing minor is -1. */
int ctl_parse_version(const char *text, int *ret_major, int *ret_minor);

#endif
