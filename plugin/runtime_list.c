/* Only read-only methods are called: a mutating one, called while containerd waits for us, would
 * deadlock. Content.List answers from containerd's own database and does not come back to us.
 *
 * Both methods take a request without filters, which is no bytes at all, and both answer with
 * repeated messages (field 1) that begin with the string that is of interest (field 1): a name, a
 * digest. So one reader does for both, and decodes in place, without memory for labels. */
#include "plugin/runtime_list.h"

#include <stdlib.h>
#include <string.h>

#include "rpc/wire.h"
#include "wire.pb-c.h"

#define NAMESPACES_TIMEOUT_MS 10000
#define CONTENT_TIMEOUT_MS 120000

typedef enum cairn_code item_fn(void *arg, const char *text, struct cairn_err *err);

struct names {
	char **list;
	size_t n;
};

static void names_fini(struct names *names)
{
	for (size_t i = 0; i < names->n; i++) free(names->list[i]);
	free(names->list);
	*names = (struct names){0};
}

static bool names_has(const struct names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++) {
		if (strcmp(names->list[i], name) == 0) return true;
	}
	return false;
}

static enum cairn_code add_name(void *arg, const char *text, struct cairn_err *err)
{
	struct names *names = arg;
	if (names->n == CAIRN_NAMESPACES_MAX) {
		return cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED, "more than %d namespaces",
				     CAIRN_NAMESPACES_MAX);
	}
	if (names->list == NULL) {
		names->list = calloc(CAIRN_NAMESPACES_MAX, sizeof(names->list[0]));
		if (names->list == NULL) abort();
	}
	names->list[names->n] = strdup(text);
	if (names->list[names->n] == NULL) abort();
	names->n++;
	return CAIRN_OK;
}

static enum cairn_code add_digest(void *arg, const char *text, struct cairn_err *err)
{
	struct cairn_err ignored;
	struct cairn_digest digest;
	/* Of an algorithm that cannot be committed here, so it is not ours. */
	if (cairn_digest_parse(text, strlen(text), &digest, &ignored) != CAIRN_OK) return CAIRN_OK;
	return cairn_digest_set_add(arg, &digest, err);
}

/* ---- answers ----------------------------------------------------------------------------------*/

/* The first string (field 1) of an item. */
static enum cairn_code read_item(const struct cairn_wire_field *item, struct cairn_span *room,
				 size_t n_room, item_fn *fn, void *arg, struct cairn_err *err)
{
	char text[CAIRN_NAMESPACE_LEN_MAX + 1] = "";
	struct cairn_wire_reader r;
	cairn_wire_init(&r, room, cairn_wire_spans(item, room, n_room));
	for (;;) {
		struct cairn_wire_field f;
		bool end = false;
		enum cairn_code rc = cairn_wire_next(&r, &f, &end, err);
		if (rc) return rc;
		if (end) return fn(arg, text, err);
		if (f.number != 1 || f.type != CAIRN_WIRE_BYTES) continue;
		rc = cairn_wire_string(&f, "name or digest", text, sizeof(text), err);
		if (rc) return rc;
	}
}

static enum cairn_code read_message(const struct cairn_msg *msg, item_fn *fn, void *arg,
				    struct cairn_err *err)
{
	const struct cairn_span *spans = NULL;
	size_t n = cairn_msg_spans(msg, &spans);
	struct cairn_span *room = calloc(n + 1, sizeof(room[0]));
	if (room == NULL) abort();
	struct cairn_wire_reader r;
	cairn_wire_init(&r, spans, n);
	enum cairn_code rc;
	for (;;) {
		struct cairn_wire_field f;
		bool end = false;
		rc = cairn_wire_next(&r, &f, &end, err);
		if (rc || end) break;
		if (f.number != 1 || f.type != CAIRN_WIRE_BYTES) continue;
		rc = read_item(&f, room, n, fn, arg, err);
		if (rc) break;
	}
	free(room);
	return rc;
}

/* ---- calls ------------------------------------------------------------------------------------*/

/* Make the call known to cairn_lister_cancel. */
static enum cairn_code announce(struct cairn_lister *l, struct cairn_call *call,
				struct cairn_err *err)
{
	pthread_mutex_lock(&l->mu);
	bool cancelled = l->cancelled;
	l->call = call;
	pthread_mutex_unlock(&l->mu);
	if (!cancelled) return CAIRN_OK;
	if (call != NULL) cairn_call_cancel(call);
	return cairn_err_set(err, CAIRN_CANCELLED, "the listing was cancelled");
}

void cairn_lister_cancel(struct cairn_lister *l)
{
	pthread_mutex_lock(&l->mu);
	l->cancelled = true;
	if (l->call != NULL) cairn_call_cancel(l->call);
	pthread_mutex_unlock(&l->mu);
}

static enum cairn_code converse(struct cairn_call *call, item_fn *fn, void *arg,
				struct cairn_err *err)
{
	Cairn__Wire__Empty nothing = CAIRN__WIRE__EMPTY__INIT;
	enum cairn_code rc = cairn_call_send(call, &nothing.base, err);
	if (rc == CAIRN_OK) rc = cairn_call_half_close(call, err);
	if (rc) return rc;
	for (;;) {
		struct cairn_msg *msg = NULL;
		if (cairn_call_recv(call, &msg) != CAIRN_RECV_MSG) return CAIRN_OK;
		rc = read_message(msg, fn, arg, err);
		cairn_msg_free(msg);
		if (rc) {
			cairn_call_cancel(call);
			return rc;
		}
	}
}

static enum cairn_code ask(struct cairn_lister *l, const char *path, const char *ns,
			   int64_t timeout_ms, item_fn *fn, void *arg, struct cairn_err *err)
{
	struct cairn_header header = {"containerd-namespace", ns};
	struct cairn_call *call = NULL;
	enum cairn_code rc =
		cairn_channel_open(l->channel, path, &header, ns != NULL, timeout_ms, &call, err);
	if (rc) return rc;
	struct cairn_err own = {0}, status = {0};
	rc = announce(l, call, &own);
	if (rc == CAIRN_OK) rc = converse(call, fn, arg, &own);
	struct cairn_err ignored;
	if (announce(l, NULL, &ignored) != CAIRN_OK && rc == CAIRN_OK) {
		rc = cairn_err_set(&own, CAIRN_CANCELLED, "the listing was cancelled");
	}
	enum cairn_code finished = cairn_call_finish(call, &status);
	/* What the server says explains why a send failed; what we found wrong comes before what
	 * the server makes of our cancelling. */
	if (rc == CAIRN_OK || (rc == CAIRN_CANCELLED && finished != CAIRN_CANCELLED)) {
		rc = finished;
		own = status;
	}
	if (rc == CAIRN_OK) return CAIRN_OK;
	*err = own;
	return cairn_err_wrap(err, "%s", path + 1);
}

static enum cairn_code list_namespaces(struct cairn_lister *l, struct names *ret,
				       struct cairn_err *err)
{
	return ask(l, "/containerd.services.namespaces.v1.Namespaces/List", NULL,
		   NAMESPACES_TIMEOUT_MS, add_name, ret, err);
}

static enum cairn_code list_all(struct cairn_lister *l, const struct names *names,
				struct cairn_digest_set *set, struct cairn_err *err)
{
	for (size_t i = 0; i < names->n; i++) {
		enum cairn_code rc = ask(l, "/containerd.services.content.v1.Content/List",
					 names->list[i], CONTENT_TIMEOUT_MS, add_digest, set, err);
		if (rc) return cairn_err_wrap(err, "namespace %.80s", names->list[i]);
	}
	return CAIRN_OK;
}

/* What was recorded in a namespace that is younger than the first question was not seen. */
static enum cairn_code check_none_appeared(struct cairn_lister *l, const struct names *names,
					   struct cairn_err *err)
{
	struct names again = {0};
	enum cairn_code rc = list_namespaces(l, &again, err);
	for (size_t i = 0; rc == CAIRN_OK && i < again.n; i++) {
		if (names_has(names, again.list[i])) continue;
		rc = cairn_err_set(err, CAIRN_ABORTED, "namespace %.80s appeared meanwhile",
				   again.list[i]);
	}
	names_fini(&again);
	return rc;
}

enum cairn_code cairn_lister_list(struct cairn_lister *l, struct cairn_digest_set *ret,
				  struct cairn_err *err)
{
	struct names names = {0};
	struct cairn_digest_set set = {0};
	enum cairn_code rc = list_namespaces(l, &names, err);
	if (rc == CAIRN_OK) rc = list_all(l, &names, &set, err);
	if (rc == CAIRN_OK) rc = check_none_appeared(l, &names, err);
	names_fini(&names);
	if (rc) {
		cairn_digest_set_fini(&set);
		return rc;
	}
	cairn_digest_set_sort(&set);
	*ret = set;
	return CAIRN_OK;
}
