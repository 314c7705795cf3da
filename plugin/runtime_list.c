/* Only read-only methods are called: a mutating one, called while containerd waits for us, would
 * deadlock. What is asked here is answered from containerd's own database, in a read transaction of
 * one namespace, and does not come back to us.
 *
 * No transaction spans two answers, so things move while we ask. The order makes that harmless:
 * what protects a blob is asked for in the order in which protection is handed on.
 *
 *     begun ─ namespaces ─ leases, resources of each ─ images ─ containers ─ content ─ namespaces
 *
 * Each is asked of all namespaces before the next is, since protection may be handed on across
 * them.
 *
 *  - begun is noted before the first question. What is recorded later than that, in any namespace,
 *    needed a yes of ours after begun (an Info, a STAT, a COMMIT), and the store remembers when it
 *    said so: whoever evicts or releases looks at that beside the listing. So neither a promise
 *    whose record comes after our question (race 1), nor a blob that is recorded in one namespace
 *    after that was asked and is dropped by another before that is (race 7), is lost.
 *  - Namespaces are asked for again at the end: what was recorded in one that is younger than the
 *    first question was not seen, and the listing is none (race 2). One that appears after that is
 *    younger than begun.
 *  - Any failure is the failure of the whole (race 3).
 *  - Leases come first: an ingest of a lease becomes a record, and a leased target an image, before
 *    the lease lets go of it. So what was leased when we asked is leased, named or recorded in what
 *    is asked for later, or really gone. Therefore a lease that ends before it is asked what it
 *    keeps is no failure. A lease that begins after the question is younger than begun; it misses
 *    only what it names without that being recorded, until the next listing.
 *  - Images come before containers: a container is made from an image, which may go at once after.
 * So what keeps it when we ask is the image, or the container that is met later.
 *  - Content comes last, as the end of all ways. */
#include "plugin/runtime_list.h"

#include "leases.pb-c.h"
#include "plugin/listing_read.h"
#include "wire.pb-c.h"

/* Without a request: everything, that is to say no bytes at all. */
struct question {
	const char *path;
	int64_t timeout_ms;
	bool stream; /* no message at all is an answer, too */
	cairn_listed_item_fn *take;
	const ProtobufCMessage *request;
};

static const struct question ask_namespaces = {
	.path = "/containerd.services.namespaces.v1.Namespaces/List",
	.timeout_ms = 10000,
	.take = cairn_listing_take_namespace,
};
static const struct question ask_leases = {
	.path = "/containerd.services.leases.v1.Leases/List",
	.timeout_ms = 30000,
	.take = cairn_listing_take_lease,
};
/* A stream, because a container's spec may be large and all of them too much for one message. */
static const struct question ask_containers = {
	.path = "/containerd.services.containers.v1.Containers/ListStream",
	.timeout_ms = 120000,
	.stream = true,
	.take = cairn_listing_take_container,
};
static const struct question ask_images = {
	.path = "/containerd.services.images.v1.Images/List",
	.timeout_ms = 30000,
	.take = cairn_listing_take_image,
};
static const struct question ask_content = {
	.path = "/containerd.services.content.v1.Content/List",
	.timeout_ms = 120000,
	.stream = true,
	.take = cairn_listing_take_content,
};

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

static enum cairn_code converse(struct cairn_call *call, const struct question *q, void *arg,
				bool *ret_answered, struct cairn_err *err)
{
	Cairn__Wire__Empty nothing = CAIRN__WIRE__EMPTY__INIT;
	enum cairn_code rc =
		cairn_call_send(call, q->request != NULL ? q->request : &nothing.base, err);
	if (rc == CAIRN_OK) rc = cairn_call_half_close(call, err);
	if (rc) return rc;
	for (;;) {
		struct cairn_msg *msg = NULL;
		if (cairn_call_recv(call, &msg) != CAIRN_RECV_MSG) return CAIRN_OK;
		*ret_answered = true;
		rc = cairn_listing_read(msg, q->take, arg, err);
		cairn_msg_free(msg);
		if (rc) {
			cairn_call_cancel(call);
			return rc;
		}
	}
}

/* ns NULL: of no namespace. */
static enum cairn_code ask(struct cairn_lister *l, const struct question *q, const char *ns,
			   void *arg, struct cairn_err *err)
{
	struct cairn_header header = {"containerd-namespace", ns};
	struct cairn_call *call = NULL;
	enum cairn_code rc = cairn_channel_open(l->channel, q->path, &header, ns != NULL,
						q->timeout_ms, &call, err);
	if (rc) return rc;
	struct cairn_err own = {0}, status = {0};
	bool answered = q->stream;
	rc = announce(l, call, &own);
	if (rc == CAIRN_OK) rc = converse(call, q, arg, &answered, &own);
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
	/* Nothing must not be taken for an empty list. */
	if (rc == CAIRN_OK && !answered) rc = cairn_err_set(&own, CAIRN_INTERNAL, "no answer");
	if (rc == CAIRN_OK) return CAIRN_OK;
	*err = own;
	return cairn_err_wrap(err, "%s", q->path + 1);
}

/* ---- lists ------------------------------------------------------------------------------------*/

/* One question, of each namespace. */
static enum cairn_code ask_all(struct cairn_lister *l, const struct question *q,
			       const struct cairn_names *names, struct cairn_listing_maker *m,
			       struct cairn_err *err)
{
	for (size_t i = 0; i < names->n; i++) {
		m->ns = names->list[i];
		enum cairn_code rc = ask(l, q, m->ns, m, err);
		if (rc) return cairn_err_wrap(err, "namespace %.80s", m->ns);
	}
	return CAIRN_OK;
}

/* What each lease keeps. */
static enum cairn_code ask_resources(struct cairn_lister *l, struct cairn_listing_maker *m,
				     struct cairn_err *err)
{
	Containerd__Services__Leases__V1__ListResourcesRequest request;
	containerd__services__leases__v1__list_resources_request__init(&request);
	const struct question q = {
		.path = "/containerd.services.leases.v1.Leases/ListResources",
		.timeout_ms = 30000,
		.take = cairn_listing_take_resource,
		.request = &request.base,
	};
	for (m->lease = 0; m->lease < m->listing->n_leases;) {
		const struct cairn_listed_lease *lease = &m->listing->leases[m->lease];
		request.id = lease->id;
		enum cairn_code rc = ask(l, &q, lease->ns, m, err);
		if (rc == CAIRN_NOT_FOUND) {
			cairn_listing_drop_lease(m, m->lease); /* it has ended */
			continue;
		}
		if (rc) {
			return cairn_err_wrap(err, "namespace %.80s: lease %.80s", lease->ns,
					      lease->id);
		}
		m->lease++;
	}
	return CAIRN_OK;
}

static enum cairn_code check_none_appeared(struct cairn_lister *l, const struct cairn_names *names,
					   struct cairn_err *err)
{
	struct cairn_names again = {0};
	enum cairn_code rc = ask(l, &ask_namespaces, NULL, &again, err);
	for (size_t i = 0; rc == CAIRN_OK && i < again.n; i++) {
		if (cairn_names_has(names, again.list[i])) continue;
		rc = cairn_err_set(err, CAIRN_ABORTED, "namespace %.80s appeared meanwhile",
				   again.list[i]);
	}
	cairn_names_fini(&again);
	return rc;
}

static enum cairn_code list(struct cairn_lister *l, bool images_only, struct cairn_listing *listing,
			    struct cairn_err *err)
{
	struct cairn_listing_maker m = {.listing = listing};
	struct cairn_names names = {0};
	enum cairn_code rc = ask(l, &ask_namespaces, NULL, &names, err);
	if (rc == CAIRN_OK && !images_only) {
		rc = ask_all(l, &ask_leases, &names, &m, err);
		if (rc == CAIRN_OK) rc = ask_resources(l, &m, err);
	}
	if (rc == CAIRN_OK) rc = ask_all(l, &ask_images, &names, &m, err);
	if (rc == CAIRN_OK && !images_only) rc = ask_all(l, &ask_containers, &names, &m, err);
	if (rc == CAIRN_OK && !images_only) {
		rc = ask_all(l, &ask_content, &names, &m, err);
		if (rc == CAIRN_OK) rc = check_none_appeared(l, &names, err);
	}
	cairn_names_fini(&names);
	return rc;
}

static enum cairn_code make(struct cairn_lister *l, const struct cairn_clock *clock,
			    bool images_only, struct cairn_listing **ret, struct cairn_err *err)
{
	struct cairn_listing *listing = cairn_listing_new();
	listing->begun_boot_ns = cairn_boot_ns(clock);
	listing->begun_real_ns = cairn_real_ns(clock);
	enum cairn_code rc = list(l, images_only, listing, err);
	if (rc) {
		cairn_listing_unref(listing);
		return rc;
	}
	cairn_digest_set_sort(&listing->recorded);
	*ret = listing;
	return CAIRN_OK;
}

enum cairn_code cairn_lister_list(struct cairn_lister *l, const struct cairn_clock *clock,
				  struct cairn_listing **ret, struct cairn_err *err)
{
	return make(l, clock, false, ret, err);
}

enum cairn_code cairn_lister_list_images(struct cairn_lister *l, const struct cairn_clock *clock,
					 struct cairn_listing **ret, struct cairn_err *err)
{
	return make(l, clock, true, ret, err);
}
