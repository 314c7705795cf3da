/* Playing containerd: the services that the view of containerd asks, over lists that tests fill, on
 * a socket in a node's folder. Everything that they answer may be made to fail, to hang, to be
 * nonsense, or to change right after a question was answered. */
#ifndef CAIRN_TESTS_CONTAINERD_FIXTURE_H
#define CAIRN_TESTS_CONTAINERD_FIXTURE_H

#include "support/content_fixture.h"
#include "support/until.h"

#include <pthread.h>

#include "containers.pb-c.h"
#include "images.pb-c.h"
#include "leases.pb-c.h"
#include "namespaces.pb-c.h"

enum fake_method {
	ASK_NAMESPACES,
	ASK_LEASES,
	ASK_RESOURCES,
	ASK_CONTAINERS,
	ASK_IMAGES,
	ASK_CONTENT,
	ASK_N,
	ASK_NONE = -1,
};

struct fake_row {
	enum fake_method kind;
	const char *ns, *a, *b, *c; /* NULL: the row is gone */
	int64_t seconds;
	int32_t nanos;
};

struct fake;
typedef void fake_hook_fn(struct fake *f, enum fake_method method, const char *ns);

struct fake {
	pthread_mutex_t mu;
	struct fake_row rows[128]; /* guarded by mu */
	size_t n_rows;		   /* guarded by mu */
	char texts[128][160];	   /* guarded by mu */
	size_t n_texts;		   /* guarded by mu */
	const char *appears;	   /* guarded by mu: a namespace that every second question shows */
	_Atomic int broken;	   /* a method that fails, or ASK_NONE */
	_Atomic int broken_code;   /* how it fails */
	_Atomic int junk;	   /* a method that answers with junk_bytes, or ASK_NONE */
	_Atomic int silent;	   /* a method that sends no message, or ASK_NONE */
	/* Set while nobody asks: */
	const char *broken_ns;	/* only there is it broken; NULL: everywhere */
	const char *junk_bytes; /* after the tag of field 1, length and all */
	size_t junk_len;
	fake_hook_fn *hook; /* called when an answer was made up, before it is sent */
	void *arg;	    /* the hook's */
	_Atomic int asked[ASK_N];
	_Atomic int hang; /* a method that does not answer, or ASK_NONE */
	struct cairn_rpc_server *server;
	char socket[112];
};

static inline void fake_init(struct fake *f, const struct node *n)
{
	memset(f, 0, sizeof(*f));
	pthread_mutex_init(&f->mu, NULL);
	f->broken = ASK_NONE;
	f->broken_code = CAIRN_INTERNAL;
	f->junk = ASK_NONE;
	f->silent = ASK_NONE;
	f->hang = ASK_NONE;
	snprintf(f->socket, sizeof(f->socket), "%s/containerd.sock", n->dir);
}

/* ---- what there is ----------------------------------------------------------------------------*/

static inline void fake_add(struct fake *f, struct fake_row row)
{
	pthread_mutex_lock(&f->mu);
	assert_true(f->n_rows < CAIRN_LEN(f->rows));
	f->rows[f->n_rows++] = row;
	pthread_mutex_unlock(&f->mu);
}

/* prefix and the digest, in the fake's memory. */
static inline const char *fake_text(struct fake *f, const char *prefix,
				    const struct cairn_digest *digest)
{
	char text[CAIRN_DIGEST_STR];
	pthread_mutex_lock(&f->mu);
	assert_true(f->n_texts < CAIRN_LEN(f->texts));
	char *to = f->texts[f->n_texts++];
	snprintf(to, sizeof(f->texts[0]), "%s%s", prefix, cairn_digest_format(digest, text));
	pthread_mutex_unlock(&f->mu);
	return to;
}

static inline void fake_record(struct fake *f, const char *ns, const struct cairn_digest *digest)
{
	fake_add(f, (struct fake_row){ASK_CONTENT, ns, fake_text(f, "", digest), 0, 0, 0, 0});
}

static inline void fake_image(struct fake *f, const char *ns, const char *name, const char *target)
{
	fake_add(f, (struct fake_row){ASK_IMAGES, ns, name, target, NULL, 0, 0});
}

/* flat, expire: the labels' values; NULL: none. */
static inline void fake_lease(struct fake *f, const char *ns, const char *id, const char *flat,
			      const char *expire)
{
	fake_add(f, (struct fake_row){ASK_LEASES, ns, id, flat, expire, 0, 0});
}

static inline void fake_resource(struct fake *f, const char *ns, const char *lease,
				 const char *type, const char *id)
{
	fake_add(f, (struct fake_row){ASK_RESOURCES, ns, lease, type, id, 0, 0});
}

static inline void fake_container(struct fake *f, const char *ns, const char *id, const char *image,
				  int64_t seconds, int32_t nanos)
{
	fake_add(f, (struct fake_row){ASK_CONTAINERS, ns, id, image, NULL, seconds, nanos});
}

/* Rows of that kind, and of that first text unless it is NULL, are no more. */
static inline void fake_remove(struct fake *f, enum fake_method kind, const char *a)
{
	pthread_mutex_lock(&f->mu);
	for (size_t i = 0; i < f->n_rows; i++) {
		struct fake_row *row = &f->rows[i];
		if (row->kind == kind && (a == NULL || strcmp(row->a, a) == 0)) row->ns = NULL;
	}
	pthread_mutex_unlock(&f->mu);
}

static inline void fake_forget(struct fake *f)
{
	pthread_mutex_lock(&f->mu);
	f->n_rows = 0;
	pthread_mutex_unlock(&f->mu);
}

/* ---- answers ----------------------------------------------------------------------------------*/

/* Lists of messages in the call's memory. */
#define FAKE_LIST(call, resp, field)                                                               \
	((resp)->field = cairn_call_alloc((call), 130 * sizeof((resp)->field[0])))
#define FAKE_NEW(call, type, init)                                                                 \
	({                                                                                         \
		type *m_ = cairn_call_alloc((call), sizeof(*m_));                                  \
		init(m_);                                                                          \
		m_;                                                                                \
	})

static inline char *fake_str(const char *s)
{
	return (char *)(uintptr_t)(s != NULL ? s : "");
}

static inline bool fake_row_is(const struct fake_row *row, enum fake_method kind, const char *ns)
{
	return row->ns != NULL && row->kind == kind && strcmp(row->ns, ns) == 0;
}

static inline void
fake_add_namespace(struct cairn_call *call,
		   Containerd__Services__Namespaces__V1__ListNamespacesResponse *resp,
		   const char *name)
{
	for (size_t k = 0; k < resp->n_namespaces; k++) {
		if (strcmp(resp->namespaces[k]->name, name) == 0) return;
	}
	Containerd__Services__Namespaces__V1__Namespace *ns =
		FAKE_NEW(call, Containerd__Services__Namespaces__V1__Namespace,
			 containerd__services__namespaces__v1__namespace__init);
	ns->name = fake_str(name);
	resp->namespaces[resp->n_namespaces++] = ns;
}

static inline ProtobufCMessage *fake_namespaces_locked(struct fake *f, struct cairn_call *call)
{
	Containerd__Services__Namespaces__V1__ListNamespacesResponse *resp =
		FAKE_NEW(call, Containerd__Services__Namespaces__V1__ListNamespacesResponse,
			 containerd__services__namespaces__v1__list_namespaces_response__init);
	FAKE_LIST(call, resp, namespaces);
	for (size_t i = 0; i < f->n_rows; i++) {
		if (f->rows[i].ns != NULL) fake_add_namespace(call, resp, f->rows[i].ns);
	}
	if (f->appears != NULL && f->asked[ASK_NAMESPACES] % 2 == 0) {
		fake_add_namespace(call, resp, f->appears);
	}
	return &resp->base;
}

static inline Cairn__Wire__Label *fake_label(struct cairn_call *call, const char *key,
					     const char *value)
{
	Cairn__Wire__Label *l = FAKE_NEW(call, Cairn__Wire__Label, cairn__wire__label__init);
	l->key = fake_str(key);
	l->value = fake_str(value);
	return l;
}

static inline ProtobufCMessage *fake_leases_locked(struct fake *f, struct cairn_call *call,
						   const char *ns)
{
	Containerd__Services__Leases__V1__ListResponse *resp =
		FAKE_NEW(call, Containerd__Services__Leases__V1__ListResponse,
			 containerd__services__leases__v1__list_response__init);
	FAKE_LIST(call, resp, leases);
	for (size_t i = 0; i < f->n_rows; i++) {
		const struct fake_row *row = &f->rows[i];
		if (!fake_row_is(row, ASK_LEASES, ns)) continue;
		Containerd__Services__Leases__V1__Lease *lease =
			FAKE_NEW(call, Containerd__Services__Leases__V1__Lease,
				 containerd__services__leases__v1__lease__init);
		lease->id = fake_str(row->a);
		lease->labels = cairn_call_alloc(call, 3 * sizeof(lease->labels[0]));
		lease->labels[lease->n_labels++] = fake_label(call, "other", "label");
		if (row->b != NULL) {
			lease->labels[lease->n_labels++] =
				fake_label(call, "containerd.io/gc.flat", row->b);
		}
		if (row->c != NULL) {
			lease->labels[lease->n_labels++] =
				fake_label(call, "containerd.io/gc.expire", row->c);
		}
		resp->leases[resp->n_leases++] = lease;
	}
	return &resp->base;
}

/* NULL: there is no such lease. */
static inline ProtobufCMessage *fake_resources_locked(struct fake *f, struct cairn_call *call,
						      const char *ns, const char *lease)
{
	Containerd__Services__Leases__V1__ListResourcesResponse *resp =
		FAKE_NEW(call, Containerd__Services__Leases__V1__ListResourcesResponse,
			 containerd__services__leases__v1__list_resources_response__init);
	bool found = false;
	FAKE_LIST(call, resp, resources);
	for (size_t i = 0; i < f->n_rows; i++) {
		const struct fake_row *row = &f->rows[i];
		if (row->ns == NULL || strcmp(row->ns, ns) != 0) continue;
		found |= row->kind == ASK_LEASES && strcmp(row->a, lease) == 0;
		if (row->kind != ASK_RESOURCES || strcmp(row->a, lease) != 0) continue;
		Containerd__Services__Leases__V1__Resource *r =
			FAKE_NEW(call, Containerd__Services__Leases__V1__Resource,
				 containerd__services__leases__v1__resource__init);
		r->type = fake_str(row->b);
		r->id = fake_str(row->c);
		resp->resources[resp->n_resources++] = r;
	}
	return found ? &resp->base : NULL;
}

static inline ProtobufCMessage *fake_container_locked(const struct fake_row *row,
						      struct cairn_call *call)
{
	Containerd__Services__Containers__V1__ListContainerMessage *m =
		FAKE_NEW(call, Containerd__Services__Containers__V1__ListContainerMessage,
			 containerd__services__containers__v1__list_container_message__init);
	m->container = FAKE_NEW(call, Containerd__Services__Containers__V1__Container,
				containerd__services__containers__v1__container__init);
	m->container->id = fake_str(row->a);
	m->container->image = fake_str(row->b);
	if (row->seconds != 0 || row->nanos != 0) {
		m->container->created_at =
			FAKE_NEW(call, Cairn__Wire__Timestamp, cairn__wire__timestamp__init);
		m->container->created_at->seconds = row->seconds;
		m->container->created_at->nanos = row->nanos;
	}
	return &m->base;
}

static inline ProtobufCMessage *fake_images_locked(struct fake *f, struct cairn_call *call,
						   const char *ns)
{
	Containerd__Services__Images__V1__ListImagesResponse *resp =
		FAKE_NEW(call, Containerd__Services__Images__V1__ListImagesResponse,
			 containerd__services__images__v1__list_images_response__init);
	FAKE_LIST(call, resp, images);
	for (size_t i = 0; i < f->n_rows; i++) {
		const struct fake_row *row = &f->rows[i];
		if (!fake_row_is(row, ASK_IMAGES, ns)) continue;
		Containerd__Services__Images__V1__Image *image =
			FAKE_NEW(call, Containerd__Services__Images__V1__Image,
				 containerd__services__images__v1__image__init);
		image->name = fake_str(row->a);
		if (row->b != NULL) {
			image->target = FAKE_NEW(call, Containerd__Services__Images__V1__Target,
						 containerd__services__images__v1__target__init);
			image->target->media_type = fake_str("application/x");
			image->target->digest = fake_str(row->b);
		}
		resp->images[resp->n_images++] = image;
	}
	return &resp->base;
}

static inline ProtobufCMessage *fake_content_locked(const struct fake_row *row,
						    struct cairn_call *call)
{
	Containerd__Services__Content__V1__ListContentResponse *resp =
		FAKE_NEW(call, Containerd__Services__Content__V1__ListContentResponse,
			 containerd__services__content__v1__list_content_response__init);
	FAKE_LIST(call, resp, info);
	resp->info[0] = FAKE_NEW(call, Containerd__Services__Content__V1__Info,
				 containerd__services__content__v1__info__init);
	resp->info[0]->digest = fake_str(row->a);
	resp->info[0]->size = 5;
	resp->n_info = 1;
	return &resp->base;
}

static inline ProtobufCMessage *fake_junk_locked(struct fake *f, struct cairn_call *call)
{
	Cairn__Wire__Empty *m = FAKE_NEW(call, Cairn__Wire__Empty, cairn__wire__empty__init);
	m->base.unknown_fields = cairn_call_alloc(call, sizeof(m->base.unknown_fields[0]));
	m->base.unknown_fields[0] =
		(ProtobufCMessageUnknownField){.tag = 1,
					       .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED,
					       .len = f->junk_len,
					       .data = (uint8_t *)(uintptr_t)f->junk_bytes};
	m->base.n_unknown_fields = 1;
	return &m->base;
}

/* The messages of an answer, into ret (at most 128). */
static inline size_t fake_answer_locked(struct fake *f, struct cairn_call *call,
					enum fake_method method, const char *ns, const char *lease,
					ProtobufCMessage **ret)
{
	size_t n = 0;
	if (f->silent == (int)method) return 0;
	if (f->junk == (int)method) {
		ret[0] = fake_junk_locked(f, call);
		return 1;
	}
	if (method == ASK_NAMESPACES) ret[n++] = fake_namespaces_locked(f, call);
	if (method == ASK_LEASES) ret[n++] = fake_leases_locked(f, call, ns);
	if (method == ASK_RESOURCES) ret[n++] = fake_resources_locked(f, call, ns, lease);
	if (method == ASK_IMAGES) ret[n++] = fake_images_locked(f, call, ns);
	for (size_t i = 0; i < f->n_rows; i++) {
		const struct fake_row *row = &f->rows[i];
		if (method == ASK_NAMESPACES || !fake_row_is(row, method, ns)) continue;
		if (method == ASK_CONTAINERS) ret[n++] = fake_container_locked(row, call);
		if (method == ASK_CONTENT) ret[n++] = fake_content_locked(row, call);
	}
	return n;
}

static inline enum cairn_code fake_serve(struct fake *f, struct cairn_call *call,
					 enum fake_method method, const char *lease,
					 struct cairn_err *err)
{
	const char *ns = cairn_call_header(call, "containerd-namespace");
	f->asked[method]++;
	if (method != ASK_NAMESPACES && ns == NULL) {
		return cairn_err_set(err, CAIRN_FAILED_PRECONDITION, "namespace required");
	}
	while (f->hang == (int)method) {
		enum cairn_wake w = cairn_call_wait(call, 20);
		if (w == CAIRN_WAKE_GONE || w == CAIRN_WAKE_DRAIN) return CAIRN_OK;
	}
	ProtobufCMessage **answer = cairn_call_alloc(call, 128 * sizeof(answer[0]));
	pthread_mutex_lock(&f->mu);
	bool broken = f->broken == (int)method &&
		      (f->broken_ns == NULL || (ns != NULL && strcmp(f->broken_ns, ns) == 0));
	size_t n = fake_answer_locked(f, call, method, ns, lease, answer);
	pthread_mutex_unlock(&f->mu);
	enum cairn_code code = (enum cairn_code)f->broken_code;
	if (broken) return cairn_err_set(err, code, "this one is broken");
	if (n == 1 && answer[0] == NULL) {
		return cairn_err_set(err, CAIRN_NOT_FOUND, "lease %s: not found", lease);
	}
	if (f->hook != NULL) f->hook(f, method, ns);
	for (size_t i = 0; i < n; i++) {
		enum cairn_code rc = cairn_call_send(call, answer[i], err);
		if (rc) return rc;
	}
	return CAIRN_OK;
}

#define FAKE_METHOD(name, method)                                                                  \
	static inline enum cairn_code name(void *f, struct cairn_call *call, const void *request,  \
					   struct cairn_err *err)                                  \
	{                                                                                          \
		(void)request;                                                                     \
		return fake_serve(f, call, method, NULL, err);                                     \
	}
FAKE_METHOD(fake_namespaces, ASK_NAMESPACES)
FAKE_METHOD(fake_leases, ASK_LEASES)
FAKE_METHOD(fake_containers, ASK_CONTAINERS)
FAKE_METHOD(fake_images, ASK_IMAGES)
FAKE_METHOD(fake_content, ASK_CONTENT)

static inline enum cairn_code fake_resources(void *f, struct cairn_call *call, const void *request,
					     struct cairn_err *err)
{
	const Containerd__Services__Leases__V1__ListResourcesRequest *req = request;
	return fake_serve(f, call, ASK_RESOURCES, req->id, err);
}

#define FAKE_SERVICE(service) "/containerd.services." service

/* On the wire one answer is a stream of one message. */
static const struct cairn_method fake_methods[] = {
	{.path = FAKE_SERVICE("namespaces.v1.Namespaces/List"),
	 .request = &containerd__services__namespaces__v1__list_namespaces_request__descriptor,
	 .server_stream = fake_namespaces},
	{.path = FAKE_SERVICE("leases.v1.Leases/List"),
	 .request = &containerd__services__leases__v1__list_request__descriptor,
	 .server_stream = fake_leases},
	{.path = FAKE_SERVICE("leases.v1.Leases/ListResources"),
	 .request = &containerd__services__leases__v1__list_resources_request__descriptor,
	 .server_stream = fake_resources},
	{.path = FAKE_SERVICE("containers.v1.Containers/ListStream"),
	 .request = &containerd__services__containers__v1__list_containers_request__descriptor,
	 .server_stream = fake_containers},
	{.path = FAKE_SERVICE("images.v1.Images/List"),
	 .request = &containerd__services__images__v1__list_images_request__descriptor,
	 .server_stream = fake_images},
	{.path = METHOD("List"),
	 .request = TYPE_OF(list_content_request),
	 .server_stream = fake_content},
};

static inline void fake_start(struct fake *f, struct node *n)
{
	OK(cairn_rpc_server_new(n->rpc, &f->server, &node_err));
	cairn_rpc_server_add(f->server, fake_methods, CAIRN_LEN(fake_methods), f);
	OK(cairn_rpc_server_listen_unix(f->server, f->socket, &node_err));
	OK(cairn_rpc_server_start(f->server, &node_err));
}

static inline void fake_stop(struct fake *f)
{
	if (f->server == NULL) return;
	cairn_rpc_server_drain(f->server, 5000);
	cairn_rpc_server_free(cairn_steal(&f->server));
}

#endif
