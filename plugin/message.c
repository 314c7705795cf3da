#include "plugin/message.h"

#include <stdlib.h>
#include <string.h>

static void set_time(Cairn__Wire__Timestamp *ts, int64_t ns)
{
	cairn__wire__timestamp__init(ts);
	ts->seconds = ns / CAIRN_NS_PER_S;
	int64_t nanos = ns % CAIRN_NS_PER_S;
	if (nanos < 0) { /* nanos count forward from the second before */
		nanos += CAIRN_NS_PER_S;
		ts->seconds--;
	}
	ts->nanos = (int32_t)nanos;
}

Cairn__Wire__Timestamp *cairn_message_time(struct cairn_call *call, int64_t ns)
{
	Cairn__Wire__Timestamp *ts = cairn_call_alloc(call, sizeof(*ts));
	set_time(ts, ns);
	return ts;
}

Cairn__Wire__Timestamp *cairn_message_new_time(int64_t ns)
{
	if (ns == 0) return NULL;
	Cairn__Wire__Timestamp *ts = malloc(sizeof(*ts));
	if (ts == NULL) abort();
	set_time(ts, ns);
	return ts;
}

int64_t cairn_message_ns(const Cairn__Wire__Timestamp *ts)
{
	bool sane = ts != NULL && ts->seconds >= 0 && ts->seconds < INT64_MAX / CAIRN_NS_PER_S &&
		    ts->nanos >= 0 && ts->nanos < CAIRN_NS_PER_S;
	return sane ? ts->seconds * CAIRN_NS_PER_S + ts->nanos : 0;
}

char *cairn_message_text(const char *text)
{
	char *copy = strdup(text);
	if (copy == NULL) abort();
	return copy;
}

char *cairn_message_digest(struct cairn_call *call, const struct cairn_digest *digest)
{
	char text[CAIRN_DIGEST_STR] = "";
	if (digest->alg != 0) cairn_digest_format(digest, text);
	return cairn_call_strdup(call, text);
}

Cairn__Wire__Label **cairn_message_labels(struct cairn_call *call,
					  const struct cairn_labels *labels, size_t *ret_n)
{
	*ret_n = 0;
	if (labels == NULL || labels->n == 0) return NULL;
	Cairn__Wire__Label **list = cairn_call_alloc(call, labels->n * sizeof(void *));
	for (size_t i = 0; i < labels->n; i++) {
		Cairn__Wire__Label *label = cairn_call_alloc(call, sizeof(*label));
		cairn__wire__label__init(label);
		label->key = cairn_call_strdup(call, labels->list[i].key);
		label->value = cairn_call_strdup(call, labels->list[i].value);
		list[i] = label;
	}
	*ret_n = labels->n;
	return list;
}
