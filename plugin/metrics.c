#include "plugin/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/rpc.h"

#define METHODS_MAX 64

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
	if (fclose(out) != 0) abort();
	return text;
}
