#include "plugin/explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plugin/cairn_service.h"
#include "plugin/gc.h"
#include "plugin/message.h"

#define CONTAINERD_DEFAULT "/run/containerd/containerd.sock"
#define CAIRN_DEFAULT "/run/cairn/cairn.sock"
#define REASONS_MAX 64
#define NAMED_MAX 6 /* namespaces that get commands of their own */

struct texts {
	struct cairn_call *call;
	char **list;
	size_t n, max;
};

static void add(struct texts *texts, const char *fmt, ...) CAIRN_PRINTF(2, 3);

static void add(struct texts *texts, const char *fmt, ...)
{
	va_list args;
	char *text = NULL;
	if (texts->n == texts->max) return;
	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0) abort();
	va_end(args);
	texts->list[texts->n++] = cairn_call_strdup(texts->call, text);
	free(text);
}

/* " -a ADDRESS" for a socket that the tool would not find by itself. */
static const char *option(struct cairn_call *call, const char *flag, const char *address,
			  const char *standard)
{
	if (address[0] == '\0' || strcmp(address, standard) == 0) return "";
	size_t n = strlen(flag) + strlen(address) + 3;
	char *text = cairn_call_alloc(call, n);
	snprintf(text, n, " %s %s", flag, address);
	return text;
}

/* ---- remedies ---- */

size_t cairn_remedies(struct cairn_admin_service *service, struct cairn_call *call,
		      const struct cairn_digest *digest, const struct cairn_recorder *recorders,
		      size_t n, bool known, char *ret[static CAIRN_REMEDIES_MAX])
{
	struct texts out = {.call = call, .list = ret, .max = CAIRN_REMEDIES_MAX};
	struct cairn_runtime_status status;
	char d[CAIRN_DIGEST_STR], hex[CAIRN_DIGEST_STR];
	cairn_runtime_get_status(service->runtime, &status);
	const char *at = option(call, "-a", status.address, CONTAINERD_DEFAULT);
	const char *socket = option(call, "--socket", service->listen, CAIRN_DEFAULT);
	cairn_digest_format(digest, d);
	if (!known) {
		add(&out, "ctr%s namespaces ls -q  # run the next line for each of these as NS",
		    at);
	}
	for (size_t i = 0; known && i < n && i < NAMED_MAX; i++) {
		add(&out, "ctr%s -n %s content rm %s", at, recorders[i].ns, d);
	}
	if (known && n > NAMED_MAX) {
		add(&out, "# the same for the other namespaces that record it, of %zu in all", n);
	}
	if (!known) add(&out, "ctr%s -n NS content rm %s", at, d);
	add(&out, "cairnctl%s explain %s  # repeat until it says \"not here\"; that takes seconds",
	    socket, d);
	for (size_t i = 0; known && i < n && i < NAMED_MAX; i++) {
		const char *source = recorders[i].source;
		add(&out,
		    "ctr%s -n %s images pull IMAGE  # each image that uses it%s%s; crictl pull "
		    "IMAGE under Kubernetes",
		    at, recorders[i].ns, source != NULL ? ": from " : "",
		    source != NULL ? source : "");
	}
	if (!known) {
		add(&out,
		    "ctr%s -n NS images pull IMAGE  # each image that uses it; crictl pull IMAGE "
		    "under Kubernetes",
		    at);
	}
	add(&out,
	    "cairnctl%s import DIR  # instead of all that, if DIR/blobs/%s/%s is a good copy, from "
	    "another node's state_dir or an export",
	    socket, cairn_alg_name(digest->alg), cairn_digest_hex(digest, hex));
	return out.n;
}

/* ---- reasons ---- */

static void reason_span(char buf[static 32], int64_t ns)
{
	int64_t s = ns / CAIRN_NS_PER_S;
	if (s < 0) s = 0;
	if (s < 120) {
		snprintf(buf, 32, "%lld s", (long long)s);
	} else if (s < 7200) {
		snprintf(buf, 32, "%lld min", (long long)(s / 60));
	} else if (s < 172800) {
		snprintf(buf, 32, "%lld h", (long long)(s / 3600));
	} else {
		snprintf(buf, 32, "%lld days", (long long)(s / 86400));
	}
}

struct facts {
	const struct cairn_blob_info *info; /* NULL: not held */
	const struct cairn_recorder *recorders;
	size_t n;
	bool known;			 /* containerd was asked */
	const struct cairn_err *why_not; /* it could not be */
};

static void reasons_from_containerd(struct cairn_admin_service *service,
				    const struct cairn_digest *digest, const struct facts *f,
				    struct texts *out)
{
	bool listed_known;
	for (size_t i = 0; f->known && i < f->n; i++) {
		add(out, "containerd records it in namespace %s%s%s", f->recorders[i].ns,
		    f->recorders[i].source != NULL ? ", as part of an image from " : "",
		    f->recorders[i].source != NULL ? f->recorders[i].source : "");
	}
	if (f->known && f->n == 0) add(out, "containerd does not record it in any namespace now");
	if (f->known) return;
	add(out, "containerd could not be asked now: %s", f->why_not->msg);
	bool listed = cairn_runtime_records(service->runtime, digest, &listed_known);
	if (listed_known) {
		add(out, "it was %s the last complete listing of what containerd records",
		    listed ? "in" : "not in");
	}
}

static void reasons_from_store(const struct facts *f, struct texts *out)
{
	char idle[32];
	const struct cairn_blob_info *info = f->info;
	reason_span(idle, info->idle_ns);
	if (info->damaged) {
		add(out, "damaged: its bytes are missing or do not match its digest, so it is not "
			 "served");
	}
	if (info->state == CAIRN_BLOB_CACHED) {
		add(out, "cached: containerd has no record of it; unused for %s", idle);
	} else if (f->known && f->n == 0) {
		add(out, "referenced: containerd has not said that it is done with it; it becomes "
			 "cached when containerd deletes it, or when two listings of what "
			 "containerd records lack it");
	} else {
		add(out, "referenced: kept until containerd deletes it; last used %s ago", idle);
	}
	for (char **owner = info->owners; owner != NULL && *owner != NULL; owner++) {
		add(out, "containerd committed it in namespace %s", *owner);
	}
}

Cairn__V1__Blob *cairn_explain_blob(struct cairn_call *call, const struct cairn_blob_info *info)
{
	Cairn__V1__Blob *blob = cairn_call_alloc(call, sizeof(*blob));
	cairn__v1__blob__init(blob);
	blob->digest = cairn_message_digest(call, &info->digest);
	blob->size = (int64_t)info->size;
	blob->state = info->state == CAIRN_BLOB_REFERENCED ? CAIRN__V1__BLOB_STATE__REFERENCED
							   : CAIRN__V1__BLOB_STATE__CACHED;
	blob->created_at = cairn_message_time(call, info->created_ns);
	blob->updated_at = cairn_message_time(call, info->updated_ns);
	blob->idle_seconds = info->idle_ns / CAIRN_NS_PER_S;
	blob->damaged = info->damaged;
	blob->labels = cairn_message_labels(call, info->labels, &blob->n_labels);
	size_t n = 0;
	while (info->owners != NULL && info->owners[n] != NULL) n++;
	blob->namespaces = cairn_call_alloc(call, (n + 1) * sizeof(char *));
	for (size_t i = 0; i < n; i++) {
		blob->namespaces[i] = cairn_call_strdup(call, info->owners[i]);
	}
	blob->n_namespaces = n;
	return blob;
}

static void fill(struct cairn_admin_service *service, struct cairn_call *call,
		 const struct cairn_digest *digest, const struct facts *f,
		 Cairn__V1__ExplainResponse *response)
{
	struct texts reasons = {.call = call, .max = REASONS_MAX};
	reasons.list = cairn_call_alloc(call, REASONS_MAX * sizeof(char *));
	if (f->info != NULL) {
		response->blob = cairn_explain_blob(call, f->info);
		reasons_from_store(f, &reasons);
	} else {
		response->blob = cairn_call_alloc(call, sizeof(*response->blob));
		cairn__v1__blob__init(response->blob);
		response->blob->digest = cairn_message_digest(call, digest);
		add(&reasons, "not here");
	}
	reasons_from_containerd(service, digest, f, &reasons);
	response->reasons = reasons.list;
	response->n_reasons = reasons.n;
	response->recorded_known = f->known;
	response->recorded_in = cairn_call_alloc(call, (f->n + 1) * sizeof(char *));
	for (size_t i = 0; i < f->n; i++) {
		response->recorded_in[i] = cairn_call_strdup(call, f->recorders[i].ns);
	}
	response->n_recorded_in = f->n;
	bool broken = f->info == NULL ? f->n > 0 : f->info->damaged && (f->n > 0 || !f->known);
	if (!broken) return;
	response->remedies = cairn_call_alloc(call, CAIRN_REMEDIES_MAX * sizeof(char *));
	response->n_remedies = cairn_remedies(service, call, digest, f->recorders, f->n, f->known,
					      response->remedies);
}

/* What garbage collection would do with it. */
static void fill_decision(struct cairn_admin_service *service, struct cairn_call *call,
			  const struct cairn_digest *digest, Cairn__V1__Blob *blob)
{
	cairn_call_offload(call);
	struct cairn_gc_look *look = cairn_gc_look(service->gc);
	const struct cairn_gc_decision *d = cairn_gc_pass_find(&look->pass, digest);
	if (d != NULL) {
		blob->why = cairn_call_strdup(call, cairn_gc_why_name(d->why));
		blob->what = cairn_call_strdup(call, d->what);
		blob->evict = cairn_gc_evicts(d->why);
	}
	cairn_gc_look_unref(look);
}

/* The digest that is asked about: given as such, or the newest version of an image's name. */
static enum cairn_code find_digest(struct cairn_admin_service *service, struct cairn_call *call,
				   const char *text, struct cairn_digest *ret,
				   Cairn__V1__ExplainResponse *response, struct cairn_err *err)
{
	struct cairn_err ignored;
	struct cairn_version *versions;
	char *name = cairn_call_alloc(call, CAIRN_NAME_MAX + 1);
	enum cairn_code rc = cairn_digest_parse(text, strlen(text), ret, err);
	if (rc == CAIRN_OK || cairn_service_is_digest(text)) return rc;
	rc = cairn_service_name(service->cache, text, name, &ignored);
	if (rc) {
		return cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
				     "neither a digest nor an image's name: %s", ignored.msg);
	}
	size_t n = cairn_cache_versions(service->cache, name, &versions);
	if (n > 0) *ret = versions[0].root;
	cairn_versions_free(versions, n);
	if (n == 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "no version of %s is known", name);
	}
	response->name = name;
	return CAIRN_OK;
}

enum cairn_code cairn_explain(struct cairn_admin_service *service, struct cairn_call *call,
			      const Cairn__V1__ExplainRequest *request,
			      Cairn__V1__ExplainResponse *response, struct cairn_err *err)
{
	struct cairn_digest digest;
	struct cairn_blob_info info;
	struct cairn_err why_not, ignored;
	struct cairn_recorder *recorders = NULL;
	struct facts f = {.why_not = &why_not};
	enum cairn_code rc = find_digest(service, call, request->digest, &digest, response, err);
	if (rc) return rc;
	f.known = cairn_recorders_ask(call, cairn_runtime_channel(service->runtime), &digest,
				      &recorders, &f.n, &why_not) == CAIRN_OK;
	f.recorders = recorders;
	if (cairn_cache_info(service->cache, &digest, &info, &ignored) == CAIRN_OK) f.info = &info;
	if (f.info == NULL && f.n == 0) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "%s: not here%s%s", request->digest,
				     f.known ? ", and containerd does not record it"
					     : "; containerd could not be asked: ",
				     f.known ? "" : why_not.msg);
	}
	fill(service, call, &digest, &f, response);
	fill_decision(service, call, &digest, response->blob);
	if (f.info != NULL) cairn_blob_info_fini(&info);
	return CAIRN_OK;
}
