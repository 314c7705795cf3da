#include "cmd/cairnd_audit.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define WHAT_MAX 256 /* bytes of what was asked for that are shown */

static const char cairn_service[] = "/cairn.v1.Cairn/";

/* ---- what was asked for ---- */

struct text {
	char bytes[WHAT_MAX];
	size_t n;
	bool cut;
};

static void add(struct text *text, const char *name, const char *value)
{
	if (text->cut) return;
	size_t room = sizeof(text->bytes) - text->n;
	int n = snprintf(text->bytes + text->n, room, "%s%s%s%s", text->n > 0 ? " " : "", name,
			 name[0] != '\0' && value[0] != '\0' ? "=" : "", value);
	text->cut = n < 0 || (size_t)n >= room;
	text->n = text->cut ? sizeof(text->bytes) - 1 : text->n + (size_t)n;
}

/* Of text, only what names images, blobs, jobs and folders: what else a request may carry, now or
 * in a later version, may be a secret. */
static bool names_something(const char *field)
{
	static const char *const fields[] = {"reference", "references", "name", "target",
					     "digest",	  "digests",	"id",	"directory",
					     "platforms", "nodes",	"fleet"};
	for (size_t i = 0; i < CAIRN_LEN(fields); i++) {
		if (strcmp(field, fields[i]) == 0) return true;
	}
	return false;
}

/* Who names an image as a URL with a password is refused; the line must not have it either. */
static const char *without_login(const char *value)
{
	const char *from = value;
	if (value[0] == '/') return value; /* a folder */
	for (const char *at = strchr(value, '@'); at != NULL; at = strchr(at + 1, '@')) {
		bool digest =
			strncmp(at + 1, "sha256:", 7) == 0 || strncmp(at + 1, "sha512:", 7) == 0;
		if (!digest) from = at + 1;
	}
	return from;
}

static void add_strings(struct text *text, const ProtobufCFieldDescriptor *field,
			const uint8_t *message)
{
	char *const *list = (char *const *)(const void *)(message + field->offset);
	size_t n = 1;
	if (field->label == PROTOBUF_C_LABEL_REPEATED) {
		memcpy(&n, message + field->quantifier_offset, sizeof(n));
		memcpy(&list, message + field->offset, sizeof(list));
	}
	for (size_t i = 0; i < n && !text->cut; i++) {
		if (list[i] != NULL && list[i][0] != '\0') add(text, "", without_login(list[i]));
	}
}

static void add_fields(struct text *text, const ProtobufCMessage *message);

/* Which nodes a job is for. Of other messages nothing is shown: a login is one. */
static void add_message(struct text *text, const ProtobufCFieldDescriptor *field,
			const uint8_t *message)
{
	const ProtobufCMessage *inner;
	memcpy(&inner, message + field->offset, sizeof(inner));
	if (inner != NULL && strcmp(field->name, "fleet") == 0) add_fields(text, inner);
}

static void add_field(struct text *text, const ProtobufCFieldDescriptor *field,
		      const uint8_t *message)
{
	char number[24];
	int64_t wide = 0;
	int32_t narrow = 0;
	if (field->type == PROTOBUF_C_TYPE_STRING) {
		if (names_something(field->name)) add_strings(text, field, message);
		return;
	}
	if (field->label == PROTOBUF_C_LABEL_REPEATED) return;
	switch (field->type) {
	case PROTOBUF_C_TYPE_BOOL:
		memcpy(&narrow, message + field->offset, sizeof(narrow));
		if (narrow != 0) add(text, field->name, "");
		return;
	case PROTOBUF_C_TYPE_INT32:
		memcpy(&narrow, message + field->offset, sizeof(narrow));
		wide = narrow;
		break;
	case PROTOBUF_C_TYPE_INT64:
		memcpy(&wide, message + field->offset, sizeof(wide));
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		add_message(text, field, message);
		return;
	default:
		return;
	}
	snprintf(number, sizeof(number), "%lld", (long long)wide);
	if (wide != 0) add(text, field->name, number);
}

static void add_fields(struct text *text, const ProtobufCMessage *message)
{
	const ProtobufCMessageDescriptor *type = message->descriptor;
	for (unsigned i = 0; i < type->n_fields; i++) {
		add_field(text, &type->fields[i], (const uint8_t *)message);
	}
}

static void describe(const ProtobufCMessage *request, struct text *ret)
{
	*ret = (struct text){.n = 0};
	if (request != NULL) add_fields(ret, request);
}

/* ---- the line ---- */

/* What tools ask again and again, of the local socket: a line each would bury the others. */
static bool is_poll(const char *method)
{
	static const char *const polls[] = {"Status", "ListJobs", "GetJob", "ListPeers"};
	for (size_t i = 0; i < CAIRN_LEN(polls); i++) {
		if (strcmp(method, polls[i]) == 0) return true;
	}
	return false;
}

void cairnd_audit(const char *who, const char *from, const struct cairn_call_end *end)
{
	bool own = strncmp(end->path, cairn_service, strlen(cairn_service)) == 0;
	const char *method = own ? end->path + strlen(cairn_service) : end->path;
	enum cairn_log_level level = CAIRN_LOG_INFO;
	if (from == NULL && !own) return;
	if (from == NULL && is_poll(method) && end->code == CAIRN_OK) level = CAIRN_LOG_DEBUG;
	if (end->code == CAIRN_PERMISSION_DENIED) level = CAIRN_LOG_WARN;
	if (level < cairn_log_level()) return;
	struct text what;
	describe(end->request, &what);
	const struct cairn_field fields[] = {
		CAIRN_STR("who", who),
		CAIRN_STR("from", from != NULL ? from : "socket"),
		CAIRN_STR("method", method),
		CAIRN_STR("what", what.bytes),
		CAIRN_STR("result", cairn_code_name(end->code)),
		CAIRN_NUM("ms", end->duration_ms),
		CAIRN_STR("err", end->error),
	};
	cairn_log_emit(level, "audit", fields, CAIRN_LEN(fields) - (end->code == CAIRN_OK));
}

void cairnd_audit_local(void *arg, const struct cairn_call_end *end)
{
	(void)arg;
	cairnd_audit("local", NULL, end);
}
