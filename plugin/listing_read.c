#include "plugin/listing_read.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "plugin/ref.h"

#define NAMESPACE_LEN_MAX 255 /* containerd itself allows 76 */
#define LABEL_KEY_MAX 40      /* the longest of interest has 23 */
#define TIME_LEN_MAX 64

/* ---- lists that grow --------------------------------------------------------------------------*/

/* Room for one more, after the n that there are. */
static void *grow(void *list, size_t n, size_t *cap, size_t size)
{
	if (n < *cap) return list;
	*cap = *cap == 0 ? 16 : 2 * *cap;
	list = realloc(list, *cap * size);
	if (list == NULL) abort();
	return list;
}

static char *copy(const char *text)
{
	char *s = strdup(text);
	if (s == NULL) abort();
	return s;
}

static enum cairn_code too_many(struct cairn_err *err, unsigned max, const char *what)
{
	return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "containerd lists more than %u %s", max,
			     what);
}

void cairn_names_fini(struct cairn_names *names)
{
	for (size_t i = 0; i < names->n; i++) free(names->list[i]);
	free(names->list);
	*names = (struct cairn_names){0};
}

bool cairn_names_has(const struct cairn_names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++) {
		if (strcmp(names->list[i], name) == 0) return true;
	}
	return false;
}

static void free_text(char **text)
{
	free(*text);
}

/* ---- fields -----------------------------------------------------------------------------------*/

/* True for each field of bytes; false at the end, or at an error, which is in *rc. Fields of other
 * types are of no interest on this level. */
static bool next_field(struct cairn_wire_reader *fields, struct cairn_wire_field *f,
		       enum cairn_code *rc, struct cairn_err *err)
{
	for (;;) {
		bool end = false;
		*rc = cairn_wire_next(fields, f, &end, err);
		if (*rc || end) return false;
		if (f->type == CAIRN_WIRE_BYTES) return true;
	}
}

static struct cairn_wire_reader enter(const struct cairn_listed_item *item,
				      const struct cairn_wire_field *f)
{
	struct cairn_wire_reader inner;
	cairn_wire_init(&inner, item->room, cairn_wire_spans(f, item->room, item->n_room));
	return inner;
}

/* A name, in memory of its own. Of a field that is sent twice the last one counts. */
static enum cairn_code take_name(struct cairn_listing_maker *m, const struct cairn_wire_field *f,
				 const char *what, char **ret, struct cairn_err *err)
{
	if (f->value > CAIRN_LISTED_NAME_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				     "%s is %llu bytes long, at most %d are allowed", what,
				     (unsigned long long)f->value, CAIRN_LISTED_NAME_MAX);
	}
	m->text_bytes += f->value;
	if (m->text_bytes > CAIRN_LISTING_TEXT_MAX) {
		return too_many(err, CAIRN_LISTING_TEXT_MAX, "bytes of names");
	}
	char *text = malloc(f->value + 1);
	if (text == NULL) abort();
	enum cairn_code rc = cairn_wire_string(f, what, text, f->value + 1, err);
	if (rc) {
		free(text);
		return rc;
	}
	free(*ret);
	*ret = text;
	return CAIRN_OK;
}

/* Short text that may be anything: what does not fit, or holds a NUL, is "". */
static void take_short(const struct cairn_wire_field *f, char *buf, size_t cap)
{
	struct cairn_err ignored;
	buf[0] = '\0';
	if (cairn_wire_string(f, "text", buf, cap, &ignored) != CAIRN_OK) buf[0] = '\0';
}

/* alg 0: it is of no algorithm that can be committed here, so it is not ours. */
static struct cairn_digest parse_digest(const char *text)
{
	struct cairn_err ignored;
	struct cairn_digest digest;
	if (cairn_digest_parse(text, strlen(text), &digest, &ignored) == CAIRN_OK) return digest;
	return (struct cairn_digest){0};
}

static struct cairn_digest take_digest(const struct cairn_wire_field *f)
{
	char text[CAIRN_DIGEST_STR];
	take_short(f, text, sizeof(text));
	return parse_digest(text);
}

/* ---- times ------------------------------------------------------------------------------------*/

/* *at moves over exactly n digits. */
static bool take_digits(const char **at, int n, int max, int *ret)
{
	int v = 0;
	for (int i = 0; i < n; i++) {
		char c = (*at)[i];
		if (c < '0' || c > '9') return false; /* the end, too */
		v = 10 * v + (c - '0');
	}
	*at += n;
	*ret = v;
	return v <= max;
}

static bool take_char(const char **at, char c)
{
	if (**at != c) return false;
	(*at)++;
	return true;
}

/* ".123": any number of digits, of which nine count. */
static bool take_fraction(const char **at, int64_t *ret_ns)
{
	int64_t unit = CAIRN_NS_PER_S;
	*ret_ns = 0;
	if (!take_char(at, '.')) return true;
	const char *first = *at;
	for (; **at >= '0' && **at <= '9'; (*at)++) {
		unit /= 10;
		*ret_ns += unit * (**at - '0');
	}
	return *at > first;
}

/* "Z" or "+hh:mm", and nothing after it. */
static bool take_zone(const char **at, int64_t *ret_s)
{
	int hours = 0, minutes = 0, sign = **at == '-' ? -1 : 1;
	*ret_s = 0;
	if (take_char(at, 'Z')) return **at == '\0';
	if (!take_char(at, '+') && !take_char(at, '-')) return false;
	if (!take_digits(at, 2, 23, &hours) || !take_char(at, ':') ||
	    !take_digits(at, 2, 59, &minutes)) {
		return false;
	}
	*ret_s = sign * (hours * INT64_C(3600) + minutes * INT64_C(60));
	return **at == '\0';
}

/* "2006-01-02T15:04:05" */
static bool take_date(const char **at, struct tm *ret)
{
	static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	struct tm t = {0};
	int year = 0, month = 0;
	if (!take_digits(at, 4, 9999, &year) || !take_char(at, '-') ||
	    !take_digits(at, 2, 12, &month) || !take_char(at, '-') || month == 0 ||
	    !take_digits(at, 2, days[month - 1], &t.tm_mday) || !take_char(at, 'T') ||
	    !take_digits(at, 2, 23, &t.tm_hour) || !take_char(at, ':') ||
	    !take_digits(at, 2, 59, &t.tm_min) || !take_char(at, ':') ||
	    !take_digits(at, 2, 59, &t.tm_sec) || t.tm_mday == 0) {
		return false;
	}
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	t.tm_year = year - 1900;
	t.tm_mon = month - 1;
	*ret = t;
	return month != 2 || t.tm_mday < 29 || leap;
}

int64_t cairn_listing_parse_time(const char *text)
{
	struct tm t;
	int64_t fraction = 0, zone = 0;
	if (!take_date(&text, &t) || !take_fraction(&text, &fraction) || !take_zone(&text, &zone)) {
		return 0;
	}
	int64_t s = (int64_t)timegm(&t) - zone;
	if (s < 0 || (s == 0 && fraction == 0)) return 1;
	return s < INT64_MAX / CAIRN_NS_PER_S ? s * CAIRN_NS_PER_S + fraction : 0;
}

/* A Timestamp; 0: none that makes sense. Go's zero time is in the year 1. */
static enum cairn_code read_timestamp(struct cairn_wire_reader fields, int64_t *ret,
				      struct cairn_err *err)
{
	int64_t seconds = 0, nanos = 0;
	for (;;) {
		struct cairn_wire_field f;
		bool end = false;
		enum cairn_code rc = cairn_wire_next(&fields, &f, &end, err);
		if (rc) return rc;
		if (end) break;
		if (f.type != CAIRN_WIRE_VARINT) continue;
		if (f.number == 1) seconds = (int64_t)f.value;
		if (f.number == 2) nanos = (int64_t)f.value;
	}
	bool sane = seconds > 0 && seconds < INT64_MAX / CAIRN_NS_PER_S && nanos >= 0 &&
		    nanos < CAIRN_NS_PER_S;
	*ret = sane ? seconds * CAIRN_NS_PER_S + nanos : 0;
	return CAIRN_OK;
}

/* ---- items ------------------------------------------------------------------------------------*/

enum cairn_code cairn_listing_take_namespace(void *arg, struct cairn_listed_item *item,
					     struct cairn_err *err)
{
	struct cairn_names *names = arg;
	char name[NAMESPACE_LEN_MAX + 1] = "";
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number != 1) continue;
		rc = cairn_wire_string(&f, "a namespace's name", name, sizeof(name), err);
		if (rc) return rc;
	}
	if (rc) return rc;
	if (names->n == CAIRN_NAMESPACES_MAX) {
		return too_many(err, CAIRN_NAMESPACES_MAX, "namespaces");
	}
	if (names->list == NULL) {
		names->list = calloc(CAIRN_NAMESPACES_MAX, sizeof(names->list[0]));
		if (names->list == NULL) abort();
	}
	names->list[names->n++] = copy(name);
	return CAIRN_OK;
}

enum cairn_code cairn_listing_take_content(void *arg, struct cairn_listed_item *item,
					   struct cairn_err *err)
{
	struct cairn_listing_maker *m = arg;
	struct cairn_digest digest = {0};
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number == 1) digest = take_digest(&f);
	}
	if (rc || digest.alg == 0) return rc;
	return cairn_digest_set_add(&m->listing->recorded, &digest, err);
}

static enum cairn_code read_target(struct cairn_wire_reader fields, struct cairn_digest *ret,
				   struct cairn_err *err)
{
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&fields, &f, &rc, err)) {
		if (f.number == 2) *ret = take_digest(&f);
	}
	return rc;
}

enum cairn_code cairn_listing_take_image(void *arg, struct cairn_listed_item *item,
					 struct cairn_err *err)
{
	struct cairn_listing_maker *m = arg;
	struct cairn_listing *l = m->listing;
	if (l->n_images == CAIRN_IMAGES_MAX) return too_many(err, CAIRN_IMAGES_MAX, "images");
	l->images = grow(l->images, l->n_images, &m->images_cap, sizeof(l->images[0]));
	struct cairn_listed_image *image =
		&l->images[l->n_images++]; /* the listing's, if we fail */
	*image = (struct cairn_listed_image){.ns = copy(m->ns)};
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number == 1) rc = take_name(m, &f, "an image's name", &image->name, err);
		if (f.number == 3) rc = read_target(enter(item, &f), &image->target, err);
		if (rc) return rc;
	}
	if (image->name == NULL) image->name = copy("");
	return rc;
}

/* One entry of a lease's labels. */
static enum cairn_code read_lease_label(struct cairn_wire_reader fields,
					struct cairn_listed_lease *lease, struct cairn_err *err)
{
	char key[LABEL_KEY_MAX] = "", value[TIME_LEN_MAX] = "";
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&fields, &f, &rc, err)) {
		if (f.number == 1) take_short(&f, key, sizeof(key));
		if (f.number == 2) take_short(&f, value, sizeof(value));
	}
	if (rc) return rc;
	if (strcmp(key, "containerd.io/gc.flat") == 0) lease->flat = true;
	if (strcmp(key, "containerd.io/gc.expire") == 0) {
		lease->expires_ns = cairn_listing_parse_time(value);
	}
	return CAIRN_OK;
}

enum cairn_code cairn_listing_take_lease(void *arg, struct cairn_listed_item *item,
					 struct cairn_err *err)
{
	struct cairn_listing_maker *m = arg;
	struct cairn_listing *l = m->listing;
	if (l->n_leases == CAIRN_LEASES_MAX) return too_many(err, CAIRN_LEASES_MAX, "leases");
	l->leases = grow(l->leases, l->n_leases, &m->leases_cap, sizeof(l->leases[0]));
	struct cairn_listed_lease *lease =
		&l->leases[l->n_leases++]; /* the listing's, if we fail */
	*lease = (struct cairn_listed_lease){.ns = copy(m->ns)};
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number == 1) rc = take_name(m, &f, "a lease's id", &lease->id, err);
		if (f.number == 3) rc = read_lease_label(enter(item, &f), lease, err);
		if (rc) return rc;
	}
	if (rc == CAIRN_OK && (lease->id == NULL || lease->id[0] == '\0')) {
		/* It cannot be asked what it keeps. */
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT, "a lease has no id");
	}
	return rc;
}

enum cairn_code cairn_listing_take_resource(void *arg, struct cairn_listed_item *item,
					    struct cairn_err *err)
{
	struct cairn_listing_maker *m = arg;
	struct cairn_listed_lease *lease = &m->listing->leases[m->lease];
	if (lease->n == 0) m->content_cap = 0;
	cairn_auto(free_text) char *id = NULL;
	char type[16] = "";
	size_t before = m->text_bytes;
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number == 1) rc = take_name(m, &f, "a resource's id", &id, err);
		if (f.number == 2) take_short(&f, type, sizeof(type));
		if (rc) return rc;
	}
	m->text_bytes = before; /* it is not kept */
	if (rc || id == NULL) return rc;
	struct cairn_ref ref = {0};
	if (strcmp(type, "content") == 0) ref.want = parse_digest(id);
	if (strcmp(type, "ingests") == 0) cairn_ref_parse_client(id, &ref);
	if (ref.want.alg == 0) return CAIRN_OK;
	if (m->resources == CAIRN_LEASE_RESOURCES_MAX) {
		return too_many(err, CAIRN_LEASE_RESOURCES_MAX, "resources of leases");
	}
	m->resources++;
	lease->content = grow(lease->content, lease->n, &m->content_cap, sizeof(lease->content[0]));
	lease->content[lease->n++] = ref.want;
	return CAIRN_OK;
}

void cairn_listing_drop_lease(struct cairn_listing_maker *m, size_t index)
{
	struct cairn_listing *l = m->listing;
	m->resources -= l->leases[index].n;
	cairn_listed_lease_fini(&l->leases[index]);
	l->leases[index] = l->leases[--l->n_leases];
}

enum cairn_code cairn_listing_take_container(void *arg, struct cairn_listed_item *item,
					     struct cairn_err *err)
{
	struct cairn_listing_maker *m = arg;
	struct cairn_listing *l = m->listing;
	if (l->n_containers == CAIRN_CONTAINERS_MAX) {
		return too_many(err, CAIRN_CONTAINERS_MAX, "containers");
	}
	l->containers =
		grow(l->containers, l->n_containers, &m->containers_cap, sizeof(l->containers[0]));
	struct cairn_listed_container *c = &l->containers[l->n_containers++]; /* as above */
	*c = (struct cairn_listed_container){.ns = copy(m->ns)};
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&item->fields, &f, &rc, err)) {
		if (f.number == 1) rc = take_name(m, &f, "a container's id", &c->id, err);
		if (f.number == 3) rc = take_name(m, &f, "a container's image", &c->image, err);
		if (f.number == 8) rc = read_timestamp(enter(item, &f), &c->created_ns, err);
		if (rc) return rc;
	}
	if (c->id == NULL) c->id = copy("");
	if (c->image == NULL) c->image = copy("");
	return rc;
}

/* ---- an answer --------------------------------------------------------------------------------*/

enum cairn_code cairn_listing_read(const struct cairn_msg *msg, cairn_listed_item_fn *fn, void *arg,
				   struct cairn_err *err)
{
	const struct cairn_span *spans = NULL;
	size_t n = cairn_msg_spans(msg, &spans);
	struct cairn_span *room = calloc(2 * (n + 1), sizeof(room[0]));
	if (room == NULL) abort();
	struct cairn_wire_reader fields;
	cairn_wire_init(&fields, spans, n);
	struct cairn_wire_field f;
	enum cairn_code rc;
	while (next_field(&fields, &f, &rc, err)) {
		if (f.number != 1) continue;
		struct cairn_listed_item item = {.room = room + n + 1, .n_room = n + 1};
		cairn_wire_init(&item.fields, room, cairn_wire_spans(&f, room, n + 1));
		rc = fn(arg, &item, err);
		if (rc) break;
	}
	free(room);
	return rc;
}
