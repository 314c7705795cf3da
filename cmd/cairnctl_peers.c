/* cairnctl peers, and what status says of other nodes. */
#include <stdio.h>

#include "cmd/cairnctl.h"
#include "cmd/cairnctl_format.h"

/* ---- peers ---- */

struct listing {
	const struct ctl *ctl;
	bool titled;
};

static json_t *json_peer(const Cairn__V1__Peer *p)
{
	return json_pack(
		"{s:s, s:o, s:o, s:o, s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:I, s:I, s:o}", "type",
		"peer", "address", ctl_json_text(p->address), "name", ctl_json_text(p->name),
		"state", ctl_json_text(p->state), "from", "bytes", (json_int_t)p->from_bytes,
		"bytes_per_second", (json_int_t)p->from_bytes_per_second, "to", "bytes",
		(json_int_t)p->to_bytes, "bytes_per_second", (json_int_t)p->to_bytes_per_second,
		"bad_pieces", (json_int_t)p->bad_pieces, "failures", (json_int_t)p->failures,
		"shunned_ms", (json_int_t)p->shunned_ms, "error", ctl_json_text(p->error));
}

static void print_peer_fields(const Cairn__V1__Peer *p)
{
	char address[CTL_LINE], name[CTL_LINE], state[CTL_LINE], error[CTL_LINE];
	printf("%s\t%s\t%s\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\t%lld\t%s\n",
	       ctl_format_plain(p->address, address, sizeof(address)),
	       ctl_format_plain(p->name, name, sizeof(name)),
	       ctl_format_plain(p->state, state, sizeof(state)), (long long)p->from_bytes,
	       (long long)p->from_bytes_per_second, (long long)p->to_bytes,
	       (long long)p->to_bytes_per_second, (long long)p->bad_pieces, (long long)p->failures,
	       (long long)p->shunned_ms, ctl_format_plain(p->error, error, sizeof(error)));
}

/* What is wrong with it, if anything is. */
static void print_trouble(const Cairn__V1__Peer *p)
{
	char error[CTL_LINE], span[CTL_TEXT];
	const char *between = "";
	if (p->shunned_ms > 0) {
		printf("left alone for %s", ctl_format_span(p->shunned_ms / 1000 + 1, span));
		between = "; ";
	}
	if (p->bad_pieces > 0) {
		printf("%s%lld wrong pieces", between, (long long)p->bad_pieces);
		between = "; ";
	}
	if (p->error[0] != '\0') {
		printf("%s%s", between, ctl_format_plain(p->error, error, sizeof(error)));
	}
	printf("\n");
}

static void print_peer(struct listing *l, const Cairn__V1__Peer *p)
{
	char address[CTL_LINE], name[CTL_LINE], state[CTL_LINE], from[CTL_TRAFFIC], to[CTL_TRAFFIC];
	if (l->ctl->json) {
		ctl_print_json(json_peer(p));
		return;
	}
	if (!l->ctl->terminal) {
		print_peer_fields(p);
		return;
	}
	if (!l->titled) {
		printf("%-28s  %-20s  %-9s  %22s  %22s  %s\n", "ADDRESS", "NAME", "STATE", "FROM",
		       "TO", "TROUBLE");
	}
	l->titled = true;
	printf("%-28s  %-20s  %-9s  %22s  %22s  ",
	       ctl_format_plain(p->address, address, sizeof(address)),
	       ctl_format_plain(p->name, name, sizeof(name)),
	       ctl_format_plain(p->state, state, sizeof(state)),
	       ctl_format_traffic(p->from_bytes, p->from_bytes_per_second, from),
	       ctl_format_traffic(p->to_bytes, p->to_bytes_per_second, to));
	print_trouble(p);
}

static bool on_peers(void *arg, const ProtobufCMessage *msg)
{
	const Cairn__V1__ListPeersResponse *r = (const Cairn__V1__ListPeersResponse *)msg;
	for (size_t i = 0; i < r->n_peers && !ferror(stdout); i++) print_peer(arg, r->peers[i]);
	return !ferror(stdout) && fflush(stdout) == 0;
}

static int run_peers(struct ctl *ctl, int argc, char **argv)
{
	static const struct option own[] = {{0}};
	Cairn__V1__ListPeersRequest request = CAIRN__V1__LIST_PEERS_REQUEST__INIT;
	struct listing listing = {.ctl = ctl};
	struct cairn_err err;
	(void)ctl_getopt(ctl, argc, argv, own);
	if (optind != argc) return ctl_usage(ctl, "peers takes no arguments");
	if (ctl_stream(ctl, "ListPeers", &request.base, &cairn__v1__list_peers_response__descriptor,
		       on_peers, &listing, &err) != CAIRN_OK) {
		return ctl_fail(ctl, &err);
	}
	return CTL_DONE;
}

const struct ctl_verb ctl_peers = {
	.name = "peers",
	.arguments = "",
	.summary = "the other nodes, and what came from and went to each",
	.help = "Lists the nodes that this one gets blobs from and gives blobs to, itself first. "
		"A node is\n"
		"connected, a member (it lives, as the directory says), or gone (it was met "
		"before). FROM\n"
		"and TO are bytes since cairnd's start, and how fast they go now.\n\n"
		"In a pipe, a line has these fields, separated by tabs: address, name in its "
		"certificate,\n"
		"state (self, connected, member, gone), bytes from it, of these a second lately, "
		"bytes to\n"
		"it, of these a second, wrong pieces, failures, milliseconds for which it is left "
		"alone\n"
		"still, and its last error. \"-\" stands for nothing.",
	.run = run_peers,
};

/* ---- status ---- */

static json_t *json_fill(const Cairn__V1__SwarmFill *f)
{
	return json_pack("{s:o, s:s, s:I, s:I, s:s, s:o, s:b, s:I, s:I}", "digest",
			 ctl_json_text(f->digest), "state", f->state, "size", (json_int_t)f->size,
			 "done", (json_int_t)f->done, "grant", f->grant, "grant_node",
			 ctl_json_text(f->grant_node), "grant_ours", (int)f->grant_ours, "sources",
			 (json_int_t)f->sources, "bytes_per_second",
			 (json_int_t)f->bytes_per_second);
}

static json_t *json_upload(const Cairn__V1__SwarmUpload *u)
{
	return json_pack("{s:o, s:o, s:I, s:I}", "address", ctl_json_text(u->address), "digest",
			 ctl_json_text(u->digest), "bytes", (json_int_t)u->bytes,
			 "bytes_per_second", (json_int_t)u->bytes_per_second);
}

json_t *ctl_json_swarm(const Cairn__V1__Swarm *s)
{
	if (s == NULL) return json_null();
	json_t *fills = json_array(), *uploads = json_array();
	for (size_t i = 0; i < s->n_fills; i++) {
		json_array_append_new(fills, json_fill(s->fills[i]));
	}
	for (size_t i = 0; i < s->n_uploads; i++) {
		json_array_append_new(uploads, json_upload(s->uploads[i]));
	}
	return json_pack("{s:o, s:o, s:I, s:{s:I, s:I}, s:I, s:{s:I, s:I}, s:o, s:I, s:o, s:I}",
			 "address", ctl_json_text(s->address), "health", ctl_json_text(s->health),
			 "members", (json_int_t)s->members, "connections", "in",
			 (json_int_t)s->connections_in, "out", (json_int_t)s->connections_out,
			 "announced", (json_int_t)s->announced, "bytes", "from",
			 (json_int_t)s->from_peers_bytes, "to", (json_int_t)s->to_peers_bytes,
			 "fills", fills, "fills_total", (json_int_t)s->fills_total, "uploads",
			 uploads, "uploads_total", (json_int_t)s->uploads_total);
}

static void print_number(const struct ctl *ctl, const char *key, int64_t n)
{
	char text[CTL_TEXT];
	snprintf(text, sizeof(text), "%lld", (long long)n);
	ctl_print_field(ctl, key, text);
}

/* "granted to 10.0.0.7:7400, which got nothing yet" */
static void print_fill(const struct ctl *ctl, const Cairn__V1__SwarmFill *f)
{
	char text[CTL_LINE + 8 * CTL_TEXT], node[CTL_LINE],
		grant[CTL_LINE + CTL_TEXT] = "", done[CTL_TRAFFIC], size[CTL_TEXT];
	ctl_format_plain(f->grant_node, node, sizeof(node));
	if (!ctl->terminal) {
		snprintf(text, sizeof(text), "%s\t%s\t%lld\t%lld\t%s\t%s\t%lld\t%lld", f->digest,
			 f->state, (long long)f->done, (long long)f->size, f->grant,
			 f->grant_ours ? "self" : node, (long long)f->sources,
			 (long long)f->bytes_per_second);
		ctl_print_field(ctl, "fill", text);
		return;
	}
	if (f->grant_node[0] != '\0' || f->grant_ours) {
		snprintf(grant, sizeof(grant), ", grant %s at %s", f->grant,
			 f->grant_ours ? "this node" : node);
	}
	snprintf(text, sizeof(text), "%.19s %s, %s of %s, from %lld peers%s", f->digest, f->state,
		 ctl_format_traffic(f->done, f->bytes_per_second, done),
		 ctl_format_bytes(f->size, size), (long long)f->sources, grant);
	ctl_print_field(ctl, "fill", text);
}

static void print_upload(const struct ctl *ctl, const Cairn__V1__SwarmUpload *u)
{
	char text[CTL_LINE + 4 * CTL_TEXT], address[CTL_LINE], bytes[CTL_TRAFFIC];
	ctl_format_plain(u->address, address, sizeof(address));
	if (ctl->terminal) {
		snprintf(text, sizeof(text), "%.19s to %s, %s", u->digest, address,
			 ctl_format_traffic(u->bytes, u->bytes_per_second, bytes));
	} else {
		snprintf(text, sizeof(text), "%s\t%s\t%lld\t%lld", u->digest, address,
			 (long long)u->bytes, (long long)u->bytes_per_second);
	}
	ctl_print_field(ctl, "upload", text);
}

void ctl_print_swarm(const struct ctl *ctl, const Cairn__V1__Swarm *s)
{
	char text[CTL_LINE];
	if (s == NULL) {
		ctl_print_field(ctl, "other nodes",
				ctl->terminal ? "off (p2p.listen is empty)" : "-");
		return;
	}
	ctl_print_field(ctl, "other nodes see", ctl_format_plain(s->address, text, sizeof(text)));
	print_number(ctl, "nodes", s->members);
	snprintf(text, sizeof(text),
		 ctl->terminal ? "%lld from others, %lld to others" : "%lld\t%lld",
		 (long long)s->connections_in, (long long)s->connections_out);
	ctl_print_field(ctl, "connections", text);
	print_number(ctl, "shared blobs", s->announced);
	ctl_print_size(ctl, "got from peers", s->from_peers_bytes);
	ctl_print_size(ctl, "gave to peers", s->to_peers_bytes);
	if (s->health[0] != '\0') {
		ctl_print_field(ctl, "p2p trouble",
				ctl_format_plain(s->health, text, sizeof(text)));
	}
	for (size_t i = 0; i < s->n_fills; i++) print_fill(ctl, s->fills[i]);
	for (size_t i = 0; i < s->n_uploads; i++) print_upload(ctl, s->uploads[i]);
}
