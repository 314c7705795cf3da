#include "plugin/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/rpc.h"

#define METHODS_MAX 64
#define PEERS_MAX 4096 /* that are looked at for wrong pieces */

/* A label's value, with what the format wants escaped. */
static void put_value(FILE *out, const char *value)
{
	for (; *value != '\0'; value++) {
		if (*value == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*value == '"' || *value == '\\') fputc('\\', out);
		fputc(*value, out);
	}
}

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP cairn_%s %s\n# TYPE cairn_%s %s\n", name, help, name, type);
}

static void number(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
	head(out, name, type, help);
	fprintf(out, "cairn_%s %" PRIu64 "\n", name, value);
}

/* ---- RPCs -------------------------------------------------------------------------------------*/

/* "/package.Service/Method" as grpc_service and grpc_method. */
static void put_method(FILE *out, const char *name, const char *path)
{
	const char *slash = strrchr(path, '/');
	fprintf(out, "cairn_%s{grpc_service=\"%.*s\",grpc_method=\"", name, (int)(slash - path - 1),
		path + 1);
	put_value(out, slash + 1);
	fputc('"', out);
}

static void put_simple(FILE *out, const char *name, const char *type, const char *help,
		       const struct cairn_method_stats *list, size_t n, size_t offset)
{
	head(out, name, type, help);
	for (size_t i = 0; i < n; i++) {
		uint64_t value;
		memcpy(&value, (const char *)&list[i] + offset, sizeof(value));
		put_method(out, name, list[i].path);
		fprintf(out, "} %" PRIu64 "\n", value);
	}
}

static void put_codes(FILE *out, const struct cairn_method_stats *list, size_t n)
{
	head(out, "rpc_handled_total", "counter", "Calls that ended, by status code.");
	for (size_t i = 0; i < n; i++) {
		for (int code = 0; code < (int)CAIRN_LEN(list[i].by_code); code++) {
			/* OK is always there, so that a rate of errors can be computed. */
			if (code != CAIRN_OK && list[i].by_code[code] == 0) continue;
			put_method(out, "rpc_handled_total", list[i].path);
			fprintf(out, ",grpc_code=\"%s\"} %" PRIu64 "\n",
				cairn_code_name((enum cairn_code)code), list[i].by_code[code]);
		}
	}
}

static void put_latency(FILE *out, const struct cairn_method_stats *list, size_t n)
{
	static const char name[] = "rpc_duration_seconds";
	head(out, name, "histogram", "How long calls took, streams from start to end.");
	for (size_t i = 0; i < n; i++) {
		const struct cairn_method_stats *m = &list[i];
		for (int b = 0; b < CAIRN_RPC_BUCKETS; b++) {
			put_method(out, "rpc_duration_seconds_bucket", m->path);
			fprintf(out, ",le=\"%g\"} %" PRIu64 "\n", cairn_rpc_bucket_us[b] / 1e6,
				m->latency_buckets[b]);
		}
		put_method(out, "rpc_duration_seconds_bucket", m->path);
		fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", m->latency_count);
		put_method(out, "rpc_duration_seconds_sum", m->path);
		fprintf(out, "} %.6f\n", (double)m->latency_us_sum / 1e6);
		put_method(out, "rpc_duration_seconds_count", m->path);
		fprintf(out, "} %" PRIu64 "\n", m->latency_count);
	}
}

static void put_rpcs(FILE *out, const struct cairn_rpc_server *server)
{
	struct cairn_method_stats *list = calloc(METHODS_MAX, sizeof(list[0]));
	if (list == NULL) abort();
	size_t n = cairn_rpc_server_stats(server, list, METHODS_MAX);
	if (n > METHODS_MAX) n = METHODS_MAX;
	put_codes(out, list, n);
	put_latency(out, list, n);
	put_simple(out, "rpc_active", "gauge", "Calls that run now.", list, n,
		   offsetof(struct cairn_method_stats, active));
	put_simple(out, "rpc_received_bytes_total", "counter", "Bytes of messages received.", list,
		   n, offsetof(struct cairn_method_stats, received_bytes));
	put_simple(out, "rpc_sent_bytes_total", "counter", "Bytes of messages sent.", list, n,
		   offsetof(struct cairn_method_stats, sent_bytes));
	free(list);
}

/* ---- the store and containerd -----------------------------------------------------------------*/

static void by_state(FILE *out, const char *name, const char *help, uint64_t cached,
		     uint64_t referenced)
{
	head(out, name, "gauge", help);
	fprintf(out, "cairn_%s{state=\"cached\"} %" PRIu64 "\n", name, cached);
	fprintf(out, "cairn_%s{state=\"referenced\"} %" PRIu64 "\n", name, referenced);
}

static void put_cache(FILE *out, struct cairn_cache *cache)
{
	struct cairn_cache_stats st;
	cairn_cache_stats(cache, &st);
	by_state(out, "blobs", "Blobs held, by state.", st.cached_blobs, st.referenced_blobs);
	by_state(out, "blob_bytes", "Bytes of blobs held, by state.", st.cached_bytes,
		 st.referenced_bytes);
	number(out, "damaged_blobs", "gauge", "Recorded blobs whose bytes are lost or wrong.",
	       st.damaged_blobs);
	number(out, "ingests", "gauge", "Unfinished ingests.", st.ingests);
	number(out, "ingest_bytes", "gauge", "Bytes of unfinished ingests.", st.ingest_bytes);
	number(out, "disk_bytes", "gauge", "Size of the file system that holds state_dir.",
	       st.disk_total_bytes);
	number(out, "disk_free_bytes", "gauge", "Of these, free.", st.disk_free_bytes);
	number(out, "cache_read_bytes_total", "counter", "Bytes read from blobs.", st.read_bytes);
	number(out, "cache_written_bytes_total", "counter", "Bytes written to ingests.",
	       st.written_bytes);
}

static void put_runtime(FILE *out, struct cairn_runtime *rt)
{
	struct cairn_runtime_status st;
	cairn_runtime_get_status(rt, &st);
	if (st.address[0] == '\0') return; /* nobody to ask */
	number(out, "containerd_reachable", "gauge", "Was the last listing complete?",
	       st.reachable);
	number(out, "containerd_recorded", "gauge", "Blobs recorded at the last complete listing.",
	       st.recorded);
	number(out, "containerd_missing", "gauge",
	       "Of these, not held here or damaged: images that are broken.", st.missing);
	number(out, "containerd_listings_total", "counter", "Complete listings.", st.listings);
	number(out, "containerd_listing_failures_total", "counter", "Listings that failed.",
	       st.failures);
	head(out, "containerd_last_listing_timestamp_seconds", "gauge",
	     "When the last complete listing began.");
	fprintf(out, "cairn_containerd_last_listing_timestamp_seconds %.3f\n",
		(double)st.last_listing_ns / 1e9);
	number(out, "blobs_promoted_total", "counter",
	       "Cached blobs that containerd was found to have recorded.", st.promoted);
	number(out, "blobs_released_total", "counter",
	       "Referenced blobs that containerd was found not to have recorded.", st.released);
}

/* ---- garbage collection -----------------------------------------------------------------------*/

static void by_reason(FILE *out, const char *name, const char *type, const char *help,
		      const uint64_t values[CAIRN_GC_WHYS], int first, int end)
{
	head(out, name, type, help);
	for (int why = first; why < end; why++) {
		fprintf(out, "cairn_%s{why=\"%s\"} %" PRIu64 "\n", name,
			cairn_gc_why_name((enum cairn_gc_why)why), values[why]);
	}
}

static void put_last_pass(FILE *out, const struct cairn_gc_summary *last)
{
	by_reason(out, "gc_kept_blobs", "gauge", "Blobs that the last pass kept, by reason.",
		  last->blobs, CAIRN_GC_REFERENCED, CAIRN_GC_TTL);
	by_reason(out, "gc_kept_bytes", "gauge", "Bytes that the last pass kept, by reason.",
		  last->bytes, CAIRN_GC_REFERENCED, CAIRN_GC_TTL);
	number(out, "gc_last_pass_sure", "gauge", "Did containerd answer the last pass in full?",
	       last->sure);
	head(out, "gc_last_pass_duration_seconds", "gauge", "How long the last pass took.");
	fprintf(out, "cairn_gc_last_pass_duration_seconds %.6f\n", (double)last->duration_ns / 1e9);
	head(out, "gc_last_pass_timestamp_seconds", "gauge", "When the last pass began.");
	fprintf(out, "cairn_gc_last_pass_timestamp_seconds %.3f\n",
		(double)last->begun_real_ns / 1e9);
}

static void put_gc(FILE *out, struct cairn_gc *gc)
{
	struct cairn_gc_status st;
	if (gc == NULL) return;
	cairn_gc_get_status(gc, &st);
	number(out, "gc_passes_total", "counter", "Garbage collections.", st.passes);
	number(out, "gc_passes_unsure_total", "counter",
	       "Of these, with containerd away or not answering in full.", st.passes_unsure);
	by_reason(out, "gc_evicted_blobs_total", "counter", "Blobs evicted, by reason.",
		  st.evicted_blobs, CAIRN_GC_TTL, CAIRN_GC_WHYS);
	by_reason(out, "gc_evicted_bytes_total", "counter", "Bytes evicted, by reason.",
		  st.evicted_bytes, CAIRN_GC_TTL, CAIRN_GC_WHYS);
	number(out, "gc_over_high_bytes", "gauge", "Bytes above the high watermark.", st.over_high);
	number(out, "gc_over_low_bytes", "gauge", "Bytes above the low watermark.", st.over_low);
	number(out, "gc_pressure_unrelieved", "gauge",
	       "1: above the high watermark, and nothing more may be evicted.", st.unrelieved);
	number(out, "gc_pins", "gauge", "Pins.", st.pins);
	number(out, "gc_versions", "gauge", "Versions of image names remembered.", st.versions);
	if (st.last.begun_real_ns != 0) put_last_pass(out, &st.last);
}

/* ---- where blobs come from --------------------------------------------------------------------*/

static void put_pulls(FILE *out, struct cairn_content_service *content)
{
	head(out, "pull_blobs_total", "counter", "Blobs of pulls, by where they came from.");
	for (int i = 0; i < CAIRN_FROM_ENDS; i++) {
		fprintf(out, "cairn_pull_blobs_total{source=\"%s\"} %" PRIu64 "\n",
			cairn_content_source_name((enum cairn_content_source)i),
			atomic_load(&content->pulled[i]));
	}
	head(out, "repairs_total", "counter", "Damaged blobs that were asked of peers.");
	fprintf(out, "cairn_repairs_total{result=\"failed\"} %" PRIu64 "\n",
		atomic_load(&content->repaired[0]));
	fprintf(out, "cairn_repairs_total{result=\"ok\"} %" PRIu64 "\n",
		atomic_load(&content->repaired[1]));
}

static void put_source(FILE *out, const char *source, uint64_t bytes)
{
	fprintf(out, "cairn_p2p_received_bytes_total{source=\"%s\"} %" PRIu64 "\n", source, bytes);
}

static void put_sources(FILE *out, const struct cairn_http_opts *opts,
			const struct cairn_swarm_stats *st)
{
	head(out, "p2p_received_bytes_total", "counter",
	     "Bytes of images that came to this node: from peers; from registries, through "
	     "containerd; and by preheats.");
	put_source(out, "peers", st->from_peers_bytes);
	put_source(out, "registry", atomic_load(&opts->content->pulled_bytes));
	put_source(out, "preheat", opts->fills != NULL ? cairn_fills_bytes(opts->fills) : 0);
}

static void put_decisions(FILE *out, const struct cairn_swarm_stats *st)
{
	static const char name[] = "p2p_decision_seconds";
	head(out, name, "histogram",
	     "From a wish for a blob to knowing who has it, or fetches it.");
	for (int b = 0; b < CAIRN_RPC_BUCKETS; b++) {
		fprintf(out, "cairn_%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
			cairn_rpc_bucket_us[b] / 1e6, st->decide_buckets[b]);
	}
	fprintf(out, "cairn_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, st->decisions);
	fprintf(out, "cairn_%s_sum %.6f\n", name, (double)st->decide_us_sum / 1e6);
	fprintf(out, "cairn_%s_count %" PRIu64 "\n", name, st->decisions);
}

/* Only those that did wrong: a large cluster has many that did not. */
static void put_bad_peers(FILE *out, struct cairn_swarm *swarm)
{
	struct cairn_peer_status *list = calloc(PEERS_MAX, sizeof(list[0]));
	if (list == NULL) abort();
	size_t n = cairn_swarm_peers(swarm, list, PEERS_MAX);
	head(out, "p2p_bad_pieces_total", "counter",
	     "Pieces that were not what they should be, by the peer that sent them.");
	for (size_t i = 0; i < n && i < PEERS_MAX; i++) {
		if (list[i].bad_pieces == 0) continue;
		fputs("cairn_p2p_bad_pieces_total{peer=\"", out);
		put_value(out, list[i].address);
		fprintf(out, "\"} %" PRIu64 "\n", list[i].bad_pieces);
	}
	free(list);
}

static void put_work(FILE *out, const struct cairn_swarm_stats *st)
{
	number(out, "p2p_sent_bytes_total", "counter", "Bytes sent to peers.", st->to_peers_bytes);
	number(out, "p2p_fills_total", "counter", "Blobs that were asked of peers.",
	       st->fills_begun);
	number(out, "p2p_hits_total", "counter", "Of these, those that came.", st->fills_done);
	number(out, "p2p_fills_failed_total", "counter", "Of these, those that did not come.",
	       st->fills_failed);
	number(out, "p2p_pieces_bad_total", "counter", "Pieces that were not what they should be.",
	       st->pieces_bad);
	number(out, "p2p_grants_total", "counter",
	       "Times that this node was to fetch a blob for all.", st->grants);
	number(out, "p2p_grant_waits_total", "counter",
	       "Times that this node waited for another that was.", st->grant_waits);
	number(out, "p2p_takeovers_total", "counter",
	       "Times that this node took that over from one that stood still.", st->takeovers);
	number(out, "p2p_shunned_total", "counter", "Times that a peer was left alone for a while.",
	       st->shunned);
	number(out, "p2p_refused_total", "counter",
	       "Connections refused: no valid certificate, not our protocol, or too many.",
	       st->refused);
}

static void put_swarm(FILE *out, struct cairn_swarm *swarm, const struct cairn_swarm_stats *st)
{
	char health[256];
	put_work(out, st);
	put_decisions(out, st);
	put_bad_peers(out, swarm);
	cairn_swarm_health(swarm, health);
	number(out, "p2p_healthy", "gauge", "0: cairnctl status says what does not work.",
	       health[0] == '\0');
	if (st->certificate_end_s > 0) {
		number(out, "p2p_certificate_end_timestamp_seconds", "gauge",
		       "When this node's certificate ends.", (uint64_t)st->certificate_end_s);
	}
	number(out, "p2p_members", "gauge", "Nodes that live, this one included.", st->members);
	number(out, "p2p_announced_blobs", "gauge", "Blobs that peers may have.", st->announced);
	number(out, "p2p_fills", "gauge", "Blobs that come from peers, or are waited for.",
	       st->fills);
	number(out, "p2p_uploads", "gauge", "Blobs that go to peers.", st->uploads);
	head(out, "p2p_connections", "gauge", "Connections with peers, by who made them.");
	fprintf(out, "cairn_p2p_connections{direction=\"in\"} %" PRIu64 "\n", st->connections_in);
	fprintf(out, "cairn_p2p_connections{direction=\"out\"} %" PRIu64 "\n", st->connections_out);
}

static void put_p2p(FILE *out, const struct cairn_http_opts *opts)
{
	struct cairn_swarm_stats st = {0};
	if (opts->swarm != NULL) cairn_swarm_get_stats(opts->swarm, &st);
	if (opts->content != NULL) {
		put_pulls(out, opts->content);
		put_sources(out, opts, &st);
	}
	if (opts->swarm != NULL) put_swarm(out, opts->swarm, &st);
}

char *cairn_metrics_write(const struct cairn_http_opts *opts, size_t *ret_len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, ret_len);
	if (out == NULL) abort();
	head(out, "build_info", "gauge", "What runs here.");
	fputs("cairn_build_info{version=\"", out);
	put_value(out, opts->version);
	fputs("\"} 1\n", out);
	head(out, "start_time_seconds", "gauge", "When the daemon started.");
	fprintf(out, "cairn_start_time_seconds %.3f\n", (double)opts->started_ns / 1e9);
	number(out, "serving", "gauge", "Is it serving?", atomic_load(&opts->health->serving));
	put_rpcs(out, opts->server);
	put_cache(out, opts->cache);
	put_runtime(out, opts->runtime);
	put_gc(out, opts->gc);
	put_p2p(out, opts);
	if (fclose(out) != 0) abort();
	return text;
}
