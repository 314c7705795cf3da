#include "plugin/recorders.h"

#include <stdio.h>
#include <string.h>

#include "content.pb-c.h"
#include "namespaces.pb-c.h"

#define ASK_MS 2000 /* one question */
#define SOURCE "containerd.io/distribution.source."

typedef Containerd__Services__Namespaces__V1__ListNamespacesResponse namespaces_response;
typedef Containerd__Services__Content__V1__InfoResponse info_response;

static void free_message(ProtobufCMessage **msg)
{
	if (*msg != NULL) protobuf_c_message_free_unpacked(*msg, NULL);
}

/* "host/name" from the label that containerd's fetcher sets; the first of several names. */
static const char *source_of(struct cairn_call *call,
			     const Containerd__Services__Content__V1__Info *info)
{
	for (size_t i = 0; info != NULL && i < info->n_labels; i++) {
		const char *key = info->labels[i]->key, *names = info->labels[i]->value;
		if (strncmp(key, SOURCE, strlen(SOURCE)) != 0) continue;
		const char *host = key + strlen(SOURCE);
		size_t name = strcspn(names, ","), n = strlen(host) + 1 + name + 1;
		char *text = cairn_call_alloc(call, n);
		snprintf(text, n, "%s/%.*s", host, (int)name, names);
		return text;
	}
	return NULL;
}

/* Does ns record it? *ret_found, and then *ret. */
static enum cairn_code ask_one(struct cairn_call *call, struct cairn_channel *channel,
			       const char *ns, const char *digest, bool *ret_found,
			       struct cairn_recorder *ret, struct cairn_err *err)
{
	Containerd__Services__Content__V1__InfoRequest request;
	const struct cairn_header header = {"containerd-namespace", ns};
	cairn_auto(free_message) ProtobufCMessage *msg = NULL;
	char text[CAIRN_DIGEST_STR];
	snprintf(text, sizeof(text), "%s", digest);
	containerd__services__content__v1__info_request__init(&request);
	request.digest = text;
	enum cairn_code rc = cairn_channel_unary(
		channel, "/containerd.services.content.v1.Content/Info", &header, 1, ASK_MS,
		&request.base, &containerd__services__content__v1__info_response__descriptor, &msg,
		err);
	*ret_found = rc == CAIRN_OK;
	if (rc == CAIRN_NOT_FOUND) return CAIRN_OK;
	if (rc) return rc;
	const info_response *response = (const info_response *)msg;
	*ret = (struct cairn_recorder){cairn_call_strdup(call, ns),
				       source_of(call, response->info)};
	return CAIRN_OK;
}

static enum cairn_code ask(struct cairn_call *call, struct cairn_channel *channel,
			   const struct cairn_digest *digest, struct cairn_recorder **ret,
			   size_t *ret_n, struct cairn_err *err)
{
	Containerd__Services__Namespaces__V1__ListNamespacesRequest request;
	cairn_auto(free_message) ProtobufCMessage *msg = NULL;
	char text[CAIRN_DIGEST_STR];
	size_t n = 0;
	containerd__services__namespaces__v1__list_namespaces_request__init(&request);
	enum cairn_code rc = cairn_channel_unary(
		channel, "/containerd.services.namespaces.v1.Namespaces/List", NULL, 0, ASK_MS,
		&request.base,
		&containerd__services__namespaces__v1__list_namespaces_response__descriptor, &msg,
		err);
	if (rc) return rc;
	const namespaces_response *list = (const namespaces_response *)msg;
	if (list->n_namespaces > CAIRN_RECORDERS_MAX) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE, "it has more than %d namespaces",
				     CAIRN_RECORDERS_MAX);
	}
	struct cairn_recorder *found =
		cairn_call_alloc(call, (list->n_namespaces + 1) * sizeof(*found));
	cairn_digest_format(digest, text);
	for (size_t i = 0; i < list->n_namespaces; i++) {
		bool hit;
		rc = ask_one(call, channel, list->namespaces[i]->name, text, &hit, &found[n], err);
		if (rc) return rc;
		n += hit;
	}
	*ret = found;
	*ret_n = n;
	return CAIRN_OK;
}

enum cairn_code cairn_recorders_ask(struct cairn_call *call, struct cairn_channel *channel,
				    const struct cairn_digest *digest, struct cairn_recorder **ret,
				    size_t *ret_n, struct cairn_err *err)
{
	if (channel == NULL) {
		return cairn_err_set(err, CAIRN_UNAVAILABLE,
				     "containerd.address is empty in cairn's configuration");
	}
	if (ask(call, channel, digest, ret, ret_n, err) == CAIRN_OK) return CAIRN_OK;
	err->code = CAIRN_UNAVAILABLE;
	return CAIRN_UNAVAILABLE;
}
