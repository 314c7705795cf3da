/* List and ListStatuses: what containerd's GC walks.
 *
 * List keeps only the last digest it has sent and holds nothing while it sends, so that Delete,
 * which containerd calls in the middle of its walk, never waits for a reader that stalls. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "plugin/content.h"
#include "plugin/filter.h"
#include "plugin/message.h"

typedef Containerd__Services__Content__V1__ListContentResponse pb_list;

/* One message's worth. On the heap, because a message has some 40 KiB and a handler's stack has
 * little more, and because memory of the call would add up over the walk. */
struct batch {
	struct cairn_blob_info blobs[CAIRN_CONTENT_LIST_BATCH];
	size_t n_blobs;
	pb_info infos[CAIRN_CONTENT_LIST_BATCH];
	pb_info *list[CAIRN_CONTENT_LIST_BATCH];
	Cairn__Wire__Timestamp times[CAIRN_CONTENT_LIST_BATCH][2];
	char digests[CAIRN_CONTENT_LIST_BATCH][CAIRN_DIGEST_STR];
	size_t n_infos;
};

static void batch_clear(struct batch *b)
{
	for (size_t i = 0; i < b->n_infos; i++) free(b->infos[i].labels);
	for (size_t i = 0; i < b->n_blobs; i++) cairn_blob_info_fini(&b->blobs[i]);
	b->n_infos = b->n_blobs = 0;
}

static void batch_free(struct batch **b)
{
	batch_clear(*b);
	free(*b);
}

static Cairn__Wire__Timestamp *set_time(Cairn__Wire__Timestamp *ts, int64_t ns)
{
	cairn__wire__timestamp__init(ts);
	/* A rebuilt index has the files' times, which may be before 1970: nanos count forward. Go
	 * refuses negative ones, and with them the whole List. */
	ts->seconds = ns / CAIRN_NS_PER_S - (ns % CAIRN_NS_PER_S < 0);
	ts->nanos = (int32_t)(ns - ts->seconds * CAIRN_NS_PER_S);
	return ts;
}

/* The labels' text stays where the store has it; the pointers and entries are one allocation. */
static void set_labels(pb_info *pb, const struct cairn_labels *labels)
{
	if (labels == NULL || labels->n == 0) return;
	pb->labels = calloc(labels->n, sizeof(void *) + sizeof(Cairn__Wire__Label));
	if (pb->labels == NULL) abort();
	Cairn__Wire__Label *entries = (Cairn__Wire__Label *)(void *)(pb->labels + labels->n);
	for (size_t i = 0; i < labels->n; i++) {
		cairn__wire__label__init(&entries[i]);
		entries[i].key = (char *)(uintptr_t)labels->list[i].key;
		entries[i].value = (char *)(uintptr_t)labels->list[i].value;
		pb->labels[i] = &entries[i];
	}
	pb->n_labels = labels->n;
}

static void batch_add(struct batch *b, const struct cairn_blob_info *blob)
{
	size_t i = b->n_infos++;
	pb_info *pb = &b->infos[i];
	containerd__services__content__v1__info__init(pb);
	pb->digest = b->digests[i];
	cairn_digest_format(&blob->digest, b->digests[i]);
	pb->size = (int64_t)blob->size;
	pb->created_at = set_time(&b->times[i][0], blob->created_ns);
	pb->updated_at = set_time(&b->times[i][1], blob->updated_ns);
	set_labels(pb, blob->labels);
	b->list[i] = pb;
}

/* Values live in a buffer of the walk's, because a digest's text does not exist in the store. */
struct subject {
	const struct cairn_blob_info *blob;
	char digest[CAIRN_DIGEST_STR];
};

static const char *blob_field(const void *obj, const char *name, const char *rest)
{
	const struct subject *subject = obj;
	if (strcmp(name, "digest") == 0) return subject->digest;
	if (strcmp(name, "labels") != 0 || subject->blob->labels == NULL) return NULL;
	const struct cairn_labels *labels = subject->blob->labels;
	for (size_t i = 0; i < labels->n; i++) {
		if (strcmp(labels->list[i].key, rest) == 0) return labels->list[i].value;
	}
	return NULL;
}

/* The next blobs of the walk, those that match. Returns false at its end. */
static bool batch_fill(struct batch *b, struct cairn_cache *cache, struct cairn_digest *after,
		       const struct cairn_filter *filter)
{
	b->n_blobs = cairn_cache_next(cache, after, CAIRN_BLOB_REFERENCED, b->blobs,
				      CAIRN_CONTENT_LIST_BATCH);
	for (size_t i = 0; i < b->n_blobs; i++) {
		struct subject subject = {.blob = &b->blobs[i]};
		*after = b->blobs[i].digest;
		if (filter != NULL) cairn_digest_format(&b->blobs[i].digest, subject.digest);
		if (cairn_filter_match(filter, blob_field, &subject)) batch_add(b, &b->blobs[i]);
	}
	return b->n_blobs > 0;
}

enum cairn_code cairn_content_list(void *arg, struct cairn_call *call, const void *request,
				   struct cairn_err *err)
{
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__ListContentRequest *req = request;
	cairn_auto(cairn_filter_freep) struct cairn_filter *filter = NULL;
	enum cairn_code rc = cairn_filter_parse(req->filters, req->n_filters, &filter, err);
	if (rc) return rc;
	struct cairn_digest after = {0};
	cairn_auto(batch_free) struct batch *b = calloc(1, sizeof(*b));
	if (b == NULL) abort();
	/* containerd leaves the stream open and unread when a Delete fails in mid-walk. */
	cairn_call_limit_sends(call, CAIRN_CONTENT_LIST_STALL_MS);
	for (;;) {
		if (filter != NULL) cairn_call_offload(call); /* matching may take long */
		if (!batch_fill(b, service->cache, &after, filter)) return CAIRN_OK;
		if (cairn_call_gone(call)) {
			return cairn_err_set(err, CAIRN_CANCELLED, "the List was cancelled");
		}
		if (b->n_infos > 0) {
			pb_list resp;
			containerd__services__content__v1__list_content_response__init(&resp);
			resp.info = b->list;
			resp.n_info = b->n_infos;
			rc = cairn_call_send(call, &resp.base, err);
			if (rc) return rc;
		}
		batch_clear(b);
	}
}

/* ---- ListStatuses -----------------------------------------------------------------------------*/

static const char *ingest_field(const void *obj, const char *name, const char *rest)
{
	(void)rest;
	const struct cairn_ingest_status *st = obj;
	return strcmp(name, "ref") == 0 ? st->ref : NULL;
}

#define STATUS_BATCH 16

/* Append what of list matches to the answer, whose room doubles as needed. */
static void add_statuses(struct cairn_call *call, const struct cairn_ingest_status *list, size_t n,
			 const struct cairn_filter *filter,
			 Containerd__Services__Content__V1__ListStatusesResponse *resp,
			 size_t *room, size_t *bytes)
{
	for (size_t i = 0; i < n && *bytes < CAIRN_CONTENT_STATUSES_MAX; i++) {
		if (!cairn_filter_match(filter, ingest_field, &list[i])) continue;
		if (resp->n_statuses == *room) {
			*room = *room == 0 ? STATUS_BATCH : 2 * *room;
			pb_status **grown = cairn_call_alloc(call, *room * sizeof(void *));
			if (resp->n_statuses > 0) {
				memcpy(grown, resp->statuses, resp->n_statuses * sizeof(void *));
			}
			resp->statuses = grown;
		}
		pb_status *pb = cairn_call_alloc(call, sizeof(*pb));
		cairn_content_fill_status(call, &list[i], pb);
		resp->statuses[resp->n_statuses++] = pb;
		*bytes += strlen(list[i].ref) + 256; /* 256: more than the other fields need */
	}
}

enum cairn_code cairn_content_list_statuses(void *arg, struct cairn_call *call, const void *request,
					    void *response, struct cairn_err *err)
{
	const struct cairn_content_service *service = arg;
	const Containerd__Services__Content__V1__ListStatusesRequest *req = request;
	cairn_auto(cairn_filter_freep) struct cairn_filter *filter = NULL;
	enum cairn_code rc = cairn_filter_parse(req->filters, req->n_filters, &filter, err);
	if (rc) return rc;
	struct cairn_ingest_status *list = calloc(STATUS_BATCH, sizeof(list[0]));
	char *after = calloc(1, CAIRN_REF_MAX + 1);
	if (list == NULL || after == NULL) abort();
	if (filter != NULL) cairn_call_offload(call);
	size_t room = 0, bytes = 0, n;
	bool first = true;
	while (bytes < CAIRN_CONTENT_STATUSES_MAX &&
	       (n = cairn_cache_next_ingest(service->cache, first ? NULL : after, list,
					    STATUS_BATCH)) > 0) {
		add_statuses(call, list, n, filter, response, &room, &bytes);
		memcpy(after, list[n - 1].ref, sizeof(list[n - 1].ref));
		first = false;
	}
	if (bytes >= CAIRN_CONTENT_STATUSES_MAX) {
		/* containerd's GC aborts what it does not know of these; the rest comes next. */
		cairn_log(CAIRN_LOG_WARN, "statuses_cut", CAIRN_NUM("bytes", bytes));
	}
	free(after);
	free(list);
	return CAIRN_OK;
}
