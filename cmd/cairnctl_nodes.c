/* The nodes of a fleet's job. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cmd/cairnctl_fleet.h"
#include "cmd/cairnctl_format.h"
#include "cmd/cairnctl_job.h"

static void *must(void *memory)
{
	if (memory == NULL) abort();
	return memory;
}

const char *ctl_node_state(Cairn__V1__JobNode__State state)
{
	static const char *const names[] = {"unknown",	 "waiting",   "running",
					    "succeeded", "partial",   "failed",
					    "down",	 "cancelled", "skipped"};
	return (size_t)state < CAIRN_LEN(names) ? names[state] : names[0];
}

bool ctl_node_over(Cairn__V1__JobNode__State state)
{
	return state > CAIRN__V1__JOB_NODE__STATE__RUNNING;
}

/* How long it took, or has taken so far. */
static int64_t seconds_of(const Cairn__V1__JobNode *node)
{
	int64_t end = ctl_seconds(node->ended_at);
	if (node->started_at == NULL) return 0;
	if (!ctl_node_over(node->state)) end = cairn_real_ns(&cairn_clock_system) / CAIRN_NS_PER_S;
	end -= ctl_seconds(node->started_at);
	return end > 0 ? end : 0;
}

json_t *ctl_json_node(const Cairn__V1__JobNode *node)
{
	json_t *failed = json_array();
	for (size_t i = 0; i < node->n_failed; i++) {
		json_array_append_new(failed, ctl_json_job_blob(node->failed[i]));
	}
	return json_pack(
		"{s:s, s:o, s:o, s:s, s:o, s:I, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I}, s:I, "
		"s:o, s:o, s:o}",
		"type", "node", "name", ctl_json_text(node->name), "address",
		ctl_json_text(node->address), "state", ctl_node_state(node->state), "platform",
		ctl_json_text(node->platform), "batch", (json_int_t)node->batch, "blobs", "done",
		(json_int_t)node->blobs_done, "total", (json_int_t)node->blobs_total, "failed",
		(json_int_t)node->blobs_failed, "bytes", "done", (json_int_t)node->bytes_done,
		"total", (json_int_t)node->bytes_total, "fetched", (json_int_t)node->bytes_fetched,
		"from_peers", (json_int_t)node->bytes_from_peers, "seconds",
		(json_int_t)seconds_of(node), "job", ctl_json_text(node->job), "error",
		ctl_json_text(node->error), "failed", failed);
}

void ctl_print_node_head(void)
{
	printf("%-24s  %-9s  %10s  %10s  %7s  %11s  %s\n", "NODE", "STATE", "REGISTRY", "PEERS",
	       "TIME", "BLOBS", "ERROR");
}

static void print_row(const Cairn__V1__JobNode *node)
{
	char name[CTL_LINE], error[CTL_LINE], fetched[CTL_TEXT], peers[CTL_TEXT], span[CTL_TEXT],
		blobs[CTL_TEXT];
	snprintf(blobs, sizeof(blobs), "%lld/%lld", (long long)node->blobs_done,
		 (long long)node->blobs_total);
	printf("%-24s  %-9s  %10s  %10s  %7s  %11s  %s\n",
	       ctl_format_plain(node->name, name, sizeof(name)), ctl_node_state(node->state),
	       ctl_format_bytes(node->bytes_fetched, fetched),
	       ctl_format_bytes(node->bytes_from_peers, peers),
	       node->started_at != NULL ? ctl_format_span(seconds_of(node), span) : "-", blobs,
	       node->error[0] != '\0' ? ctl_format_plain(node->error, error, sizeof(error)) : "");
}

static void print_fields(const Cairn__V1__JobNode *node)
{
	char name[CTL_LINE], error[CTL_LINE];
	printf("node\t%s\t%s\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\n",
	       ctl_format_plain(node->name, name, sizeof(name)), ctl_node_state(node->state),
	       (long long)node->bytes_fetched, (long long)node->bytes_from_peers,
	       (long long)seconds_of(node), (long long)node->blobs_done,
	       (long long)node->blobs_total, (long long)node->blobs_failed,
	       ctl_format_plain(node->error, error, sizeof(error)));
}

void ctl_print_node(const struct ctl *ctl, const Cairn__V1__JobNode *node)
{
	if (ctl->json) {
		ctl_print_json(ctl_json_node(node));
	} else if (ctl->terminal) {
		print_row(node);
	} else {
		print_fields(node);
	}
}

void ctl_tell_node(const Cairn__V1__JobNode *node)
{
	char name[CTL_LINE], error[CTL_LINE], digest[CTL_LINE];
	if (node->state == CAIRN__V1__JOB_NODE__STATE__SUCCEEDED) return;
	ctl_format_plain(node->name, name, sizeof(name));
	fprintf(stderr, "cairnctl: node %s: %s%s%s\n", name, ctl_node_state(node->state),
		node->error[0] != '\0' ? ": " : "",
		node->error[0] != '\0' ? ctl_format_plain(node->error, error, sizeof(error)) : "");
	for (size_t i = 0; i < node->n_failed; i++) {
		fprintf(stderr, "cairnctl: node %s: %s: %s\n", name,
			ctl_format_plain(node->failed[i]->digest, digest, sizeof(digest)),
			ctl_format_plain(node->failed[i]->error, error, sizeof(error)));
	}
}

/* ---- as they were told last ---- */

static Cairn__V1__JobNode *copy(const Cairn__V1__JobNode *node)
{
	const size_t n = cairn__v1__job_node__get_packed_size(node);
	uint8_t *bytes = must(malloc(n + 1));
	cairn__v1__job_node__pack(node, bytes);
	Cairn__V1__JobNode *ret = must(cairn__v1__job_node__unpack(NULL, n, bytes));
	free(bytes);
	return ret;
}

bool ctl_nodes_take(struct ctl_nodes *nodes, const Cairn__V1__JobNode *node)
{
	size_t i = 0;
	while (i < nodes->n && strcmp(nodes->list[i]->name, node->name) != 0) i++;
	bool changed = i == nodes->n || nodes->list[i]->state != node->state;
	if (i < nodes->n) {
		cairn__v1__job_node__free_unpacked(nodes->list[i], NULL);
	} else if (nodes->n == nodes->cap) {
		nodes->cap = nodes->cap > 0 ? 2 * nodes->cap : 16;
		nodes->list = must(realloc(nodes->list, nodes->cap * sizeof(nodes->list[0])));
	}
	nodes->n += i == nodes->n;
	nodes->list[i] = copy(node);
	return changed;
}

void ctl_nodes_fini(struct ctl_nodes *nodes)
{
	while (nodes->n > 0) cairn__v1__job_node__free_unpacked(nodes->list[--nodes->n], NULL);
	free(nodes->list);
}
