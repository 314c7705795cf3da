/* versions --fleet and prune --nodes. */
#include "cmd/cairnctl_fleet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd/cairnctl_format.h"

#define WHY 128

static void *must(void *memory)
{
	if (memory == NULL) abort();
	return memory;
}

/* ---- versions ---- */

/* One version as one node has it. */
struct entry {
	char *digest;
	size_t node;
	bool ready, current;
	char why[WHY]; /* it is not ready */
};

struct report {
	const struct ctl *ctl;
	char *name;		/* in full */
	char **nodes, **errors; /* errors[i] NULL: it answered */
	size_t n_nodes;
	struct entry *entries;
	size_t n_entries;
	bool complete;
};

static size_t add_node(struct report *r, const char *name, const char *error)
{
	size_t i = r->n_nodes++;
	r->nodes = must(realloc(r->nodes, r->n_nodes * sizeof(char *)));
	r->errors = must(realloc(r->errors, r->n_nodes * sizeof(char *)));
	r->nodes[i] = must(strdup(name));
	r->errors[i] = error != NULL ? must(strdup(error)) : NULL;
	return i;
}

static void add_version(struct report *r, size_t node, const Cairn__V1__Version *v)
{
	char size[CTL_TEXT];
	r->entries = must(realloc(r->entries, (r->n_entries + 1) * sizeof(r->entries[0])));
	struct entry *e = &r->entries[r->n_entries++];
	*e = (struct entry){.digest = must(strdup(v->digest)),
			    .node = node,
			    .ready = v->complete != 0,
			    .current = v->current != 0};
	if (r->name == NULL) r->name = must(strdup(v->name));
	if (v->missing_blobs > 0) {
		snprintf(e->why, sizeof(e->why), "lacks %lld blobs, %s",
			 (long long)v->missing_blobs, ctl_format_bytes(v->missing_bytes, size));
	} else {
		snprintf(e->why, sizeof(e->why), "its manifest is not there");
	}
}

static bool on_versions(void *arg, const ProtobufCMessage *msg)
{
	struct report *r = arg;
	const Cairn__V1__ListVersionsResponse *m = (const Cairn__V1__ListVersionsResponse *)msg;
	for (size_t i = 0; i < m->n_errors; i++) {
		add_node(r, m->errors[i]->name, m->errors[i]->error);
	}
	if (m->n_versions > 0) { /* all of one node */
		size_t node = add_node(r, m->versions[0]->node, NULL);
		for (size_t i = 0; i < m->n_versions; i++) add_version(r, node, m->versions[i]);
	}
	r->complete = r->complete || m->nodes > 0;
	return true;
}

static const struct entry *find(const struct report *r, size_t node, const char *digest)
{
	for (size_t i = 0; i < r->n_entries; i++) {
		if (r->entries[i].node == node && strcmp(r->entries[i].digest, digest) == 0) {
			return &r->entries[i];
		}
	}
	return NULL;
}

static bool is_told(const struct report *r, size_t at)
{
	for (size_t i = 0; i < at; i++) {
		if (strcmp(r->entries[i].digest, r->entries[at].digest) == 0) return true;
	}
	return false;
}

/* Why the node could not go back to it; NULL: it could. */
static const char *why_not(const struct report *r, size_t node, const char *digest)
{
	const struct entry *e = find(r, node, digest);
	if (r->errors[node] != NULL) return r->errors[node];
	if (e == NULL) return "knows no such version";
	return e->ready ? NULL : e->why;
}

static void print_object(const struct report *r, const char *digest, size_t ready, size_t current)
{
	json_t *good = json_array(), *bad = json_array();
	for (size_t i = 0; i < r->n_nodes; i++) {
		const char *why = why_not(r, i, digest);
		if (why == NULL) {
			json_array_append_new(good, ctl_json_text(r->nodes[i]));
		} else {
			json_array_append_new(bad, json_pack("{s:o, s:o}", "node",
							     ctl_json_text(r->nodes[i]), "why",
							     ctl_json_text(why)));
		}
	}
	ctl_print_json(json_pack("{s:o, s:o, s:I, s:I, s:I, s:o, s:o}", "name",
				 ctl_json_text(r->name), "digest", ctl_json_text(digest), "ready",
				 (json_int_t)ready, "nodes", (json_int_t)r->n_nodes, "current",
				 (json_int_t)current, "ready_nodes", good, "not_ready", bad));
}

static void print_version(const struct report *r, const char *digest)
{
	char plain[CTL_LINE], name[CTL_LINE], node[CTL_LINE], text[CTL_LINE];
	size_t ready = 0, current = 0;
	for (size_t i = 0; i < r->n_nodes; i++) {
		const struct entry *e = find(r, i, digest);
		ready += why_not(r, i, digest) == NULL;
		current += e != NULL && e->current;
	}
	if (r->ctl->json) {
		print_object(r, digest, ready, current);
		return;
	}
	ctl_format_plain(digest, plain, sizeof(plain));
	printf(r->ctl->terminal ? "%s  %s\n  roll-back ready: %zu of %zu nodes; current on %zu\n"
				: "version\t%s\t%s\t%zu\t%zu\t%zu\n",
	       ctl_format_plain(r->name, name, sizeof(name)), plain, ready, r->n_nodes, current);
	for (size_t i = 0; i < r->n_nodes; i++) {
		const char *why = why_not(r, i, digest);
		if (why == NULL) continue;
		ctl_format_plain(r->nodes[i], node, sizeof(node));
		ctl_format_plain(why, text, sizeof(text));
		if (r->ctl->terminal) {
			printf("  not %s: %s\n", node, text);
		} else {
			printf("not-ready\t%s\t%s\t%s\n", plain, node, text);
		}
	}
}

static void report_fini(struct report *r)
{
	for (size_t i = 0; i < r->n_nodes; i++) {
		free(r->nodes[i]);
		free(r->errors[i]);
	}
	for (size_t i = 0; i < r->n_entries; i++) free(r->entries[i].digest);
	free(r->nodes);
	free(r->errors);
	free(r->entries);
	free(r->name);
}

int ctl_fleet_versions(struct ctl *ctl, const char *name)
{
	struct report r = {.ctl = ctl};
	struct cairn_err err;
	Cairn__V1__ListVersionsRequest request;
	cairn__v1__list_versions_request__init(&request);
	memcpy(&request.name, &name, sizeof(name)); /* it is not written to */
	request.fleet = true;
	enum cairn_code rc =
		ctl_stream(ctl, "ListVersions", &request.base,
			   &cairn__v1__list_versions_response__descriptor, on_versions, &r, &err);
	if (rc == CAIRN_OK && !r.complete) {
		rc = cairn_err_set(&err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	}
	for (size_t i = 0; rc == CAIRN_OK && i < r.n_entries; i++) {
		if (!is_told(&r, i)) print_version(&r, r.entries[i].digest);
	}
	if (rc == CAIRN_OK && r.n_entries == 0) {
		for (size_t i = 0; i < r.n_nodes; i++) {
			fprintf(stderr, "cairnctl: node %s: %s\n", r.nodes[i], r.errors[i]);
		}
		rc = cairn_err_set(&err, CAIRN_NOT_FOUND, "%s: no version of it is known", name);
	}
	report_fini(&r);
	return rc ? ctl_fail(ctl, &err) : CTL_DONE;
}

/* ---- prune ---- */

struct pruning {
	const struct ctl *ctl;
	size_t nodes, failed;
};

static void print_pruned(const struct ctl *ctl, const Cairn__V1__NodePruned *p, bool first)
{
	char name[CTL_LINE], error[CTL_LINE], gone[CTL_TEXT], kept[CTL_TEXT];
	const bool good = p->error[0] == '\0';
	if (ctl->json) {
		ctl_print_json(json_pack(
			"{s:s, s:o, s:o, s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:b, s:o}", "type",
			"node", "name", ctl_json_text(p->name), "address",
			ctl_json_text(p->address), "evicted", "blobs", (json_int_t)p->evicted_blobs,
			"bytes", (json_int_t)p->evicted_bytes, "kept", "blobs",
			(json_int_t)p->kept_blobs, "bytes", (json_int_t)p->kept_bytes,
			"versions_dropped", (json_int_t)p->versions_dropped, "containerd_answered",
			(int)p->sure, "error", ctl_json_text(p->error)));
		return;
	}
	ctl_format_plain(p->name, name, sizeof(name));
	ctl_format_plain(p->error, error, sizeof(error));
	if (!ctl->terminal) {
		printf("node\t%s\t%s\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\n", name,
		       good ? "done" : "failed", (long long)p->versions_dropped,
		       (long long)p->evicted_blobs, (long long)p->evicted_bytes,
		       (long long)p->kept_blobs, (long long)p->kept_bytes, error);
		return;
	}
	if (first) {
		printf("%-24s  %8s  %6s  %10s  %6s  %10s  %s\n", "NODE", "VERSIONS", "BLOBS",
		       "EVICTED", "BLOBS", "KEPT", "ERROR");
	}
	printf("%-24s  %8lld  %6lld  %10s  %6lld  %10s  %s\n", name, (long long)p->versions_dropped,
	       (long long)p->evicted_blobs, ctl_format_bytes(p->evicted_bytes, gone),
	       (long long)p->kept_blobs, ctl_format_bytes(p->kept_bytes, kept),
	       !good	 ? error
	       : p->sure ? ""
			 : "containerd did not answer in full: what it ever had stays");
}

static bool on_pruned(void *arg, const ProtobufCMessage *msg)
{
	struct pruning *p = arg;
	const Cairn__V1__CollectGarbageResponse *r = (const Cairn__V1__CollectGarbageResponse *)msg;
	for (size_t i = 0; i < r->n_nodes; i++) {
		print_pruned(p->ctl, r->nodes[i], p->nodes == 0);
		p->nodes++;
		p->failed += r->nodes[i]->error[0] != '\0';
	}
	return !ferror(stdout) && fflush(stdout) == 0;
}

int ctl_fleet_prune(struct ctl *ctl, const Cairn__V1__PruneRequest *request)
{
	struct pruning p = {.ctl = ctl};
	struct cairn_err err;
	enum cairn_code rc =
		ctl_stream(ctl, "Prune", &request->base,
			   &cairn__v1__collect_garbage_response__descriptor, on_pruned, &p, &err);
	if (rc == CAIRN_OK && p.nodes == 0 && !ferror(stdout)) {
		rc = cairn_err_set(&err, CAIRN_INTERNAL, "cairnd ended the call without a result");
	}
	if (rc == CAIRN_OK && p.failed > 0) {
		rc = cairn_err_set(&err, CAIRN_UNAVAILABLE, "%zu of %zu nodes were not pruned",
				   p.failed, p.nodes);
	}
	return rc ? ctl_fail(ctl, &err) : CTL_DONE;
}
