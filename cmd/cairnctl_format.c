#include "cmd/cairnctl_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FORGET_S 4.0 /* a change of speed shows after about so long */
#define BAR_MIN 8
#define BAR_MAX 40

const char *ctl_format_bytes(int64_t bytes, char buf[static CTL_TEXT])
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	if (bytes < 1024) {
		snprintf(buf, CTL_TEXT, "%lld B", (long long)bytes);
		return buf;
	}
	double value = (double)bytes / 1024;
	size_t unit = 0;
	while (value >= 1023.95 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, CTL_TEXT, "%.1f %s", value, units[unit]);
	return buf;
}

const char *ctl_format_traffic(int64_t bytes, int64_t per_s, char buf[static CTL_TRAFFIC])
{
	char all[CTL_TEXT], rate[CTL_TEXT];
	ctl_format_bytes(bytes, all);
	if (per_s <= 0) {
		snprintf(buf, CTL_TRAFFIC, "%s", all);
	} else {
		snprintf(buf, CTL_TRAFFIC, "%s (%s/s)", all, ctl_format_bytes(per_s, rate));
	}
	return buf;
}

const char *ctl_format_span(int64_t s, char buf[static CTL_TEXT])
{
	if (s < 1) {
		snprintf(buf, CTL_TEXT, "now");
	} else if (s < 120) {
		snprintf(buf, CTL_TEXT, "%lld s", (long long)s);
	} else if (s < 120 * 60) {
		snprintf(buf, CTL_TEXT, "%lld min", (long long)(s / 60));
	} else if (s < 48 * 3600) {
		snprintf(buf, CTL_TEXT, "%lld h", (long long)(s / 3600));
	} else {
		snprintf(buf, CTL_TEXT, "%lld d", (long long)(s / 86400));
	}
	return buf;
}

const char *ctl_format_left(int64_t s, char buf[static CTL_TEXT])
{
	if (s < 3600) {
		snprintf(buf, CTL_TEXT, "%lld:%02lld", (long long)(s / 60), (long long)(s % 60));
	} else {
		snprintf(buf, CTL_TEXT, "%lld:%02lld:%02lld", (long long)(s / 3600),
			 (long long)(s / 60 % 60), (long long)(s % 60));
	}
	return buf;
}

const char *ctl_format_time(int64_t seconds, char buf[static CTL_TEXT])
{
	time_t t = (time_t)seconds;
	struct tm tm;
	if (seconds == 0 || gmtime_r(&t, &tm) == NULL ||
	    strftime(buf, CTL_TEXT, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0) {
		snprintf(buf, CTL_TEXT, "-");
	}
	return buf;
}

/* ---- garbage collection's reasons ---- */

const char *ctl_format_plain(const char *text, char *buf, size_t cap)
{
	snprintf(buf, cap, "%s", text[0] != '\0' ? text : "-");
	for (char *p = buf; *p != '\0'; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
	}
	return buf;
}

/* Reasons that are no somebody's: in words. With a tail, the idle time stands before it. */
static const struct words {
	const char *why, *text, *tail;
} words[] = {
	{"referenced", "containerd may have a record of it", NULL},
	{"busy", "in use at this moment", NULL},
	{"unsure", "nobody could say whether it is needed", NULL},
	{"young", "last used ", " ago"},
	{"later", "unused for ", ", and has its turn in the next pass"},
	{"ttl", "unused for ", ""},
	{"pressure", "the disk is full; unused for ", ""},
};

/* NULL: a lease, a container, an image, ...; or what only a later cairnd has. */
static const struct words *words_of(const char *why)
{
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcmp(words[i].why, why) == 0) return &words[i];
	}
	return NULL;
}

const char *ctl_format_detail(const char *why, const char *what, int64_t idle_seconds, char *buf,
			      size_t cap)
{
	char idle[CTL_TEXT] = "", plain[CTL_LINE];
	const struct words *w = words_of(why);
	ctl_format_plain(what, plain, sizeof(plain));
	if (w == NULL) {
		snprintf(buf, cap, "%s", plain);
		return buf;
	}
	if (w->tail != NULL && idle_seconds < 1) {
		snprintf(idle, sizeof(idle), "0 s"); /* ctl_format_span says "now" */
	} else if (w->tail != NULL) {
		ctl_format_span(idle_seconds, idle);
	}
	const bool more = what[0] != '\0';
	snprintf(buf, cap, "%s%s%s%s%s%s", w->text, idle, w->tail != NULL ? w->tail : "",
		 more ? " (" : "", more ? plain : "", more ? ")" : "");
	return buf;
}

const char *ctl_format_reason(const char *why, const char *what, int64_t idle_seconds, char *buf,
			      size_t cap)
{
	char plain[CTL_TEXT], name[CTL_LINE];
	if (words_of(why) != NULL) return ctl_format_detail(why, what, idle_seconds, buf, cap);
	snprintf(buf, cap, "%s%s%s", ctl_format_plain(why, plain, sizeof(plain)),
		 what[0] != '\0' ? " " : "",
		 what[0] != '\0' ? ctl_format_plain(what, name, sizeof(name)) : "");
	return buf;
}

/* ---- what people write ---- */

bool ctl_parse_until(const char *text, int64_t now_s, int64_t max, int64_t *ret_seconds)
{
	struct tm tm = {0};
	if (!ctl_parse_span(text, ret_seconds)) {
		const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
		if (end == NULL || *end != '\0') return false;
		*ret_seconds = timegm(&tm) - now_s;
	}
	return *ret_seconds >= 1 && *ret_seconds <= max;
}

bool ctl_valid_amount(const char *text)
{
	const size_t n = strspn(text, "0123456789");
	return n > 0 && (text[n] == '\0' || strcmp(text + n, "%") == 0);
}

bool ctl_parse_number(const char *text, int64_t max, int64_t *ret)
{
	int64_t n = 0;
	if (text[0] == '\0') return false;
	for (const char *p = text; *p != '\0'; p++) {
		if (*p < '0' || *p > '9' || n > (max - (*p - '0')) / 10) return false;
		n = 10 * n + (*p - '0');
	}
	*ret = n;
	return true;
}

bool ctl_parse_span(const char *text, int64_t *ret_seconds)
{
	static const struct {
		char letter;
		int64_t seconds;
	} units[] = {{'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
	char number[16]; /* more digits are too many in any case */
	const size_t len = strlen(text);
	if (len < 2 || len > sizeof(number)) return false;
	memcpy(number, text, len - 1);
	number[len - 1] = '\0';
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		int64_t n;
		if (units[i].letter != text[len - 1]) continue;
		if (!ctl_parse_number(number, CTL_SPAN_MAX_S / units[i].seconds, &n) || n == 0) {
			return false;
		}
		*ret_seconds = n * units[i].seconds;
		return true;
	}
	return false;
}

bool ctl_parse_integer(const char *text, int64_t min, int64_t max, int64_t *ret)
{
	const bool negative = text[0] == '-';
	int64_t n;
	if (!ctl_parse_number(text + negative, INT64_MAX, &n)) return false;
	if (negative) n = -n;
	if (n < min || n > max) return false;
	*ret = n;
	return true;
}

/* Letters and what else stands in the names of systems and machines: at least one. */
static size_t platform_word(const char *text)
{
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
}

bool ctl_valid_platform(const char *text)
{
	if (strcmp(text, "all") == 0 || strcmp(text, "node") == 0) return true;
	for (int words_seen = 1; words_seen <= 3; words_seen++) {
		const size_t n = platform_word(text);
		if (n == 0) return false;
		if (text[n] == '\0') return words_seen >= 2;
		if (text[n] != '/') return false;
		text += n + 1;
	}
	return false;
}

/* "sha256:HEX", also if it is mistyped. */
static bool is_digest(const char *text)
{
	if (strncmp(text, "sha", 3) != 0) return false;
	text += 3 + strspn(text + 3, "0123456789");
	return *text == ':' && strpbrk(text, "/@") == NULL;
}

bool ctl_has_credentials(const char *reference)
{
	const char *at = strchr(reference, '@');
	return at != NULL && at != reference && !is_digest(at + 1);
}

bool ctl_parse_list_line(char *line, char **ret)
{
	static const char space[] = " \t\r\n\v\f";
	line[strcspn(line, "#")] = '\0';
	char *word = line + strspn(line, space);
	const size_t n = strcspn(word, space);
	if (word[n + strspn(word + n, space)] != '\0') return false;
	word[n] = '\0';
	*ret = n > 0 ? word : NULL;
	return true;
}

/* ---- progress ---- */

void ctl_rate_add(struct ctl_rate *rate, int64_t now_ns, int64_t done)
{
	if (rate->started_ns == 0) {
		*rate = (struct ctl_rate){now_ns, now_ns, done, 0};
		return;
	}
	const double dt = (double)(now_ns - rate->last_ns) / 1e9;
	if (dt <= 0) return;
	const double now = (double)(done - rate->last_done) / dt;
	const double age = (double)(rate->last_ns - rate->started_ns) / 1e9;
	/* At first a plain mean over what there is, later one that forgets. */
	const double memory = age < FORGET_S ? age : FORGET_S;
	rate->per_s = (rate->per_s * memory + now * dt) / (memory + dt);
	rate->last_ns = now_ns;
	rate->last_done = done;
}

int64_t ctl_rate_left(const struct ctl_rate *rate, int64_t total)
{
	const double left = (double)(total - rate->last_done);
	if (left <= 0) return 0;
	if (rate->per_s <= 0 || left / rate->per_s > 3e7) return -1;
	return (int64_t)(left / rate->per_s + 0.5);
}

const char *ctl_format_bar(int64_t done, int64_t total, size_t width, char *buf, size_t cap)
{
	if (width < 4) width = 4;
	if (width + 1 > cap) width = cap - 1;
	const size_t room = width - 2;
	size_t full = total > 0 ? (size_t)((double)room * ((double)done / (double)total)) : room;
	if (full > room) full = room;
	buf[0] = '[';
	memset(buf + 1, '=', full);
	memset(buf + 1 + full, ' ', room - full);
	if (full > 0 && full < room) buf[full] = '>';
	buf[width - 1] = ']';
	buf[width] = '\0';
	return buf;
}

static int percent(int64_t done, int64_t total)
{
	if (total <= 0 || done >= total) return 100;
	return (int)(100.0 * (double)done / (double)total);
}

const char *ctl_format_total(const struct ctl_amounts *a, double per_s, int64_t seconds_left,
			     const char *tail, size_t width, char *buf, size_t cap)
{
	char text[256], bar[BAR_MAX + 1] = "", done[CTL_TEXT], total[CTL_TEXT], rate[CTL_TEXT],
				      left[CTL_TEXT] = "-:--";
	if (seconds_left >= 0) ctl_format_left(seconds_left, left);
	snprintf(text, sizeof(text), " %3d%%  %s of %s  %s/s  ETA %s  %lld/%lld blobs%s",
		 percent(a->bytes_done, a->bytes_total), ctl_format_bytes(a->bytes_done, done),
		 ctl_format_bytes(a->bytes_total, total), ctl_format_bytes((int64_t)per_s, rate),
		 left, (long long)a->blobs_done, (long long)a->blobs_total, tail);
	const size_t n = strlen(text), room = width > n ? width - n : 0;
	if (room >= BAR_MIN) {
		ctl_format_bar(a->bytes_done, a->bytes_total, room < BAR_MAX ? room : BAR_MAX, bar,
			       sizeof(bar));
	}
	snprintf(buf, cap < width + 1 ? cap : width + 1, "%s%s", bar, text);
	return buf;
}

const char *ctl_format_blob(const char *digest, int64_t done, int64_t size, const char *note,
			    size_t width, char *buf, size_t cap)
{
	char text[256], bar[BAR_MAX + 1] = "", have[CTL_TEXT], all[CTL_TEXT];
	const size_t algorithm = strcspn(digest, ":");
	const int shown = algorithm < 16 ? (int)algorithm + 13 : 20;
	snprintf(text, sizeof(text), " %3d%%  %s of %s%s%s", percent(done, size),
		 ctl_format_bytes(done, have), ctl_format_bytes(size, all),
		 note[0] != '\0' ? "  " : "", note);
	const size_t n = strlen(text) + (size_t)shown + 2, room = width > n ? width - n : 0;
	if (room >= BAR_MIN) {
		ctl_format_bar(done, size, room < BAR_MAX ? room : BAR_MAX, bar, sizeof(bar));
	}
	snprintf(buf, cap < width + 1 ? cap : width + 1, "%.*s  %s%s", shown, digest, bar, text);
	return buf;
}

int ctl_parse_version(const char *text, int *ret_major, int *ret_minor)
{
	/* "containerd github.com/containerd/containerd v1.7.2 0cae528…": the first word that begins
	 * with a number, perhaps after a v. */
	for (const char *word = text; *word != '\0'; word += strcspn(word, " \t\n")) {
		word += strspn(word, " \t\n");
		const char *p = *word == 'v' ? word + 1 : word;
		if (*p < '0' || *p > '9') continue;
		char *end;
		long major = strtol(p, &end, 10), minor = -1;
		if (*end == '.' && end[1] >= '0' && end[1] <= '9') {
			minor = strtol(end + 1, &end, 10);
		} else if (*end != '\0' && *end != '\n' && strncmp(end, ".x", 2) != 0) {
			continue;
		}
		if (major > 1000 || minor > 100000) return 0;
		*ret_major = (int)major;
		*ret_minor = (int)minor;
		return 1;
	}
	return 0;
}
