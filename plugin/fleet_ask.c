/* Questions to other nodes, several at a time, and who is there at all. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/fleet.h"

#define DESCRIBE_MS 3000
#define LATELY_MS INT64_C(3600000) /* a node that went longer ago than that is forgotten */

static void *must(void *p)
{
	if (p == NULL) abort();
	return p;
}

enum cairn_code cairn_fleet_no_others(struct cairn_err *err)
{
	return cairn_err_set(err, CAIRN_FAILED_PRECONDITION,
			     "nodes: this node asks no others: p2p.listen is not set, or p2p.fleet "
			     "is \"off\"");
}

enum cairn_code cairn_fleet_ask(const struct cairn_fleet_link *link, const char *address,
				const char *name, const ProtobufCMessage *question,
				const ProtobufCMessageDescriptor *type, int64_t timeout_ms,
				ProtobufCMessage **ret, bool *ret_answered, struct cairn_err *err)
{
	uint8_t *answer = NULL;
	size_t n_answer = 0, n = protobuf_c_message_get_packed_size(question);
	uint8_t *bytes = must(malloc(n + 1));
	protobuf_c_message_pack(question, bytes);
	enum cairn_code rc = link->call(link->arg, address, name, bytes, n, timeout_ms, &answer,
					&n_answer, ret_answered, err);
	free(bytes);
	if (rc == CAIRN_OK && type != NULL) {
		*ret = protobuf_c_message_unpack(type, NULL, n_answer, answer);
		if (*ret == NULL) {
			rc = cairn_err_set(err, CAIRN_INTERNAL, "its answer to %s cannot be read",
					   name);
		}
	}
	free(answer);
	return rc;
}

/* ---- several at a time ------------------------------------------------------------------------*/

struct each {
	size_t n;
	_Atomic size_t next;
	void (*fn)(void *arg, size_t i);
	void *arg;
};

static void *work(void *arg)
{
	struct each *e = arg;
	for (size_t i; (i = atomic_fetch_add(&e->next, 1)) < e->n;) e->fn(e->arg, i);
	return NULL;
}

void cairn_fleet_each(size_t n, void (*fn)(void *arg, size_t i), void *arg)
{
	struct each e = {.n = n, .fn = fn, .arg = arg};
	pthread_t threads[CAIRN_FLEET_WORKERS];
	size_t started = 0, want = n < CAIRN_FLEET_WORKERS ? n : CAIRN_FLEET_WORKERS;
	while (started + 1 < want && pthread_create(&threads[started], NULL, work, &e) == 0) {
		started++;
	}
	work(&e); /* this thread works as well */
	while (started > 0) pthread_join(threads[--started], NULL);
}

/* ---- who is there -----------------------------------------------------------------------------*/

/* A name of another's, on a line and in a list of ours. */
static void copy_name(char *to, size_t cap, const char *from)
{
	snprintf(to, cap, "%s", from);
	for (char *c = to; *c != '\0'; c++) {
		if ((unsigned char)*c <= ' ' || *c == 0x7f || *c == ',') *c = '?';
	}
}

static void take_description(struct cairn_fleet_candidate *c, const Cairn__Fleet__Node *node)
{
	size_t n =
		node->n_labels < CAIRN_FLEET_LABELS_MAX ? node->n_labels : CAIRN_FLEET_LABELS_MAX;
	if (node->name[0] != '\0') copy_name(c->name, sizeof(c->name), node->name);
	copy_name(c->platform, sizeof(c->platform), node->platform);
	c->labels = must(calloc(n + 1, sizeof(char *)));
	for (size_t i = 0; i < n; i++) {
		const Cairn__Wire__Label *l = node->labels[i];
		if (strlen(l->key) + strlen(l->value) > CAIRN_FLEET_LABEL_MAX) continue;
		if (asprintf(&c->labels[c->n_labels++], "%s=%s", l->key, l->value) < 0) abort();
	}
	c->answers = true;
}

struct look {
	const struct cairn_fleet_link *link;
	struct cairn_fleet_candidate *list;
};

static void describe(void *arg, size_t i)
{
	struct look *look = arg;
	struct cairn_fleet_candidate *c = &look->list[i];
	Cairn__Fleet__Describe question = CAIRN__FLEET__DESCRIBE__INIT;
	ProtobufCMessage *answer = NULL;
	struct cairn_err err;
	bool answered;
	if (!c->member) {
		snprintf(c->error, sizeof(c->error), "it is gone: the directory has it no more");
		return;
	}
	if (cairn_fleet_ask(look->link, c->address, "Describe", &question.base,
			    &cairn__fleet__node__descriptor, DESCRIBE_MS, &answer, &answered,
			    &err) != CAIRN_OK) {
		snprintf(c->error, sizeof(c->error), "%s", err.msg);
		return;
	}
	take_description(c, (const Cairn__Fleet__Node *)answer);
	protobuf_c_message_free_unpacked(answer, NULL);
}

static size_t list_peers(const struct cairn_fleet_link *link, struct cairn_peer_status **ret)
{
	size_t cap = link->peers(link->arg, NULL, 0) + 16; /* some may come meanwhile */
	*ret = must(calloc(cap, sizeof(**ret)));
	size_t n = link->peers(link->arg, *ret, cap);
	return n < cap ? n : cap;
}

/* A node that came back under another address is not also gone. */
static size_t drop_ghosts(struct cairn_fleet_candidate *list, size_t n)
{
	size_t kept = 0;
	for (size_t i = 0; i < n; i++) {
		bool ghost = false;
		for (size_t k = 0; k < n && !ghost && !list[i].member; k++) {
			ghost = list[k].answers && strcmp(list[k].name, list[i].name) == 0;
		}
		if (!ghost) list[kept++] = list[i];
	}
	return kept;
}

size_t cairn_fleet_look(const struct cairn_fleet_link *link,
			bool (*skip)(void *arg, const char *address), void *arg,
			struct cairn_fleet_candidate **ret)
{
	struct cairn_peer_status *peers;
	size_t n = 0, n_peers = list_peers(link, &peers);
	struct look look = {.link = link};
	look.list = must(calloc(n_peers + 1, sizeof(look.list[0])));
	for (size_t i = 0; i < n_peers; i++) {
		struct cairn_fleet_candidate *c = &look.list[n];
		if (!peers[i].member && peers[i].unseen_ms > LATELY_MS) continue;
		if (skip != NULL && skip(arg, peers[i].address)) continue;
		memcpy(c->address, peers[i].address, sizeof(c->address));
		copy_name(c->name, sizeof(c->name),
			  peers[i].name[0] != '\0' ? peers[i].name : peers[i].address);
		c->member = peers[i].member;
		n++;
	}
	free(peers);
	cairn_fleet_each(n, describe, &look);
	n = drop_ghosts(look.list, n);
	cairn_fleet_sort(look.list, n);
	*ret = look.list;
	return n;
}

/* Keep the chosen ones. */
static size_t keep(struct cairn_fleet_candidate *list, size_t n, const bool *chosen)
{
	size_t kept = 0;
	for (size_t i = 0; i < n; i++) {
		if (chosen[i]) {
			list[kept++] = list[i];
		} else {
			cairn_fleet_candidate_fini(&list[i]);
		}
	}
	return kept;
}

/* Who knows of nobody else, and whose directory does not work, does not know who there is. */
static enum cairn_code check_known(const struct cairn_fleet_link *link,
				   const struct cairn_fleet_candidate *list, size_t n,
				   struct cairn_err *err)
{
	char health[256] = "";
	size_t members = 0;
	for (size_t i = 0; i < n; i++) members += list[i].member;
	if (members > 1) return CAIRN_OK;
	link->health(link->arg, health);
	if (health[0] == '\0') return CAIRN_OK;
	return cairn_err_set(err, CAIRN_UNAVAILABLE,
			     "nodes: which others there are is not known: %s; try again when "
			     "cairnctl status shows them",
			     health);
}

enum cairn_code cairn_fleet_choose(const struct cairn_fleet_link *link,
				   const struct cairn_fleet_rule *rule,
				   struct cairn_fleet_candidate **ret, size_t *ret_n,
				   struct cairn_err *err)
{
	struct cairn_fleet_candidate *list;
	size_t n = cairn_fleet_look(link, NULL, NULL, &list);
	bool *chosen = must(calloc(n + 1, sizeof(*chosen)));
	enum cairn_code rc = check_known(link, list, n, err);
	if (rc == CAIRN_OK) rc = cairn_fleet_select(rule, list, n, chosen, err);
	if (rc == CAIRN_OK) n = keep(list, n, chosen);
	free(chosen);
	if (rc == CAIRN_OK && n > CAIRN_FLEET_NODES_MAX) {
		rc = cairn_err_set(err, CAIRN_RESOURCE_EXHAUSTED,
				   "nodes: %zu are meant; at most %d are in one job", n,
				   CAIRN_FLEET_NODES_MAX);
	}
	if (rc) {
		cairn_fleet_candidates_free(list, n);
		return rc;
	}
	*ret = list;
	*ret_n = n;
	return CAIRN_OK;
}
