/* Numbers and reasons as people read and write them. Pure functions; those that format return their
 * buffer. */
#ifndef CAIRN_CMD_CAIRNCTL_FORMAT_H
#define CAIRN_CMD_CAIRNCTL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CTL_TEXT 64
#define CTL_LINE 2048 /* for names of images and the like, which have at most 1.3 KiB */
#define CTL_SPAN_MAX_S (INT64_C(3650) * 86400)

/* "512 B", "1.5 KiB", "20.0 MiB" */
const char *ctl_format_bytes(int64_t bytes, char buf[static CTL_TEXT]);

/* "20.0 MiB", and, if any move now, " (1.5 MiB/s)" */
#define CTL_TRAFFIC (2 * CTL_TEXT)
const char *ctl_format_traffic(int64_t bytes, int64_t per_s, char buf[static CTL_TRAFFIC]);

/* "7 s", "5 min", "3 h", "12 d"; "now" for less than a second */
const char *ctl_format_span(int64_t seconds, char buf[static CTL_TEXT]);

/* "0:07", "12:05", "3:00:12" */
const char *ctl_format_left(int64_t seconds, char buf[static CTL_TEXT]);

/* RFC 3339 in UTC, whole seconds; "-" for 0 */
const char *ctl_format_time(int64_t seconds, char buf[static CTL_TEXT]);

/* Text of somebody else's, such as an image's name, on a line of ours: control characters become
 * '?', and "" becomes "-". What does not fit is cut. */
const char *ctl_format_plain(const char *text, char *buf, size_t cap);

/* Why garbage collection keeps a blob or lets it go, of the fields why and what of a Decision, or
 * of a Blob: "lease abc", "last used 3 h ago", "unused for 26 h". */
const char *ctl_format_reason(const char *why, const char *what, int64_t idle_seconds, char *buf,
			      size_t cap);

/* The same beside a column that has why already: "abc". */
const char *ctl_format_detail(const char *why, const char *what, int64_t idle_seconds, char *buf,
			      size_t cap);

/* "90s", "30m", "72h", "7d": at least 1 s, at most CTL_SPAN_MAX_S. */
bool ctl_parse_span(const char *text, int64_t *ret_seconds);

/* A span as above, or a time as "2026-01-31T08:00:00Z": seconds from now_s on, at most max. */
bool ctl_parse_until(const char *text, int64_t now_s, int64_t max, int64_t *ret_seconds);

/* "5" or "30%": digits, and a sign or not; whether that many may be is for cairnd to say. */
bool ctl_valid_amount(const char *text);

/* A decimal number from 0 to max. */
bool ctl_parse_number(const char *text, int64_t max, int64_t *ret);

/* A decimal number from min to max, which may be negative. */
bool ctl_parse_integer(const char *text, int64_t min, int64_t max, int64_t *ret);

/* "os/arch", "os/arch/variant", "node" or "all". */
bool ctl_valid_platform(const char *text);

/* Might an image's name have a user, a password or a token in it ("user:password@host/image")? If
 * anything but a digest comes after a @, it might. Such a name must be shown to nobody. */
bool ctl_has_credentials(const char *reference);

/* A line of a list of images: one name, or nothing but a comment (# and what follows it). Cuts line
 * in place; *ret is in it, or NULL: no name. false: more than one word. */
bool ctl_parse_list_line(char *line, char **ret);

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

/* What is done of what, of long work. */
struct ctl_amounts {
	int64_t blobs_done, blobs_total, bytes_done, bytes_total;
};

/* "[===>    ]  42%  1.2 GiB of 2.9 GiB  80.0 MiB/s  ETA 0:21  31/57 blobs", and tail, in at most
 * width bytes: the bar takes what room there is. seconds_left -1: nobody knows. */
const char *ctl_format_total(const struct ctl_amounts *a, double per_s, int64_t seconds_left,
			     const char *tail, size_t width, char *buf, size_t cap);

/* "sha256:0123456789ab  [==>   ]  42%  12.0 MiB of 28.0 MiB", and note, in at most width bytes. */
const char *ctl_format_blob(const char *digest, int64_t done, int64_t size, const char *note,
			    size_t width, char *buf, size_t cap);

/* The numbers "major.minor" in what `containerd --version` prints, or in "1.7", "v2", "2.x".
 * Returns 0 if there are none. A missing minor is -1. */
int ctl_parse_version(const char *text, int *ret_major, int *ret_minor);

#endif
