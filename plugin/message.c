#include "plugin/message.h"

#include <string.h>

Cairn__Wire__Timestamp *cairn_message_time(struct cairn_call *call, int64_t ns)
{
	Cairn__Wire__Timestamp *ts = cairn_call_alloc(call, sizeof(*ts));
	cairn__wire__timestamp__init(ts);
	ts->seconds = ns / CAIRN_NS_PER_S;
	int64_t nanos = ns % CAIRN_NS_PER_S;
	if (nanos < 0) { /* nanos count forward from the second before */
		nanos += CAIRN_NS_PER_S;
		ts->seconds--;
	}
	ts->nanos = (int32_t)nanos;
	return ts;
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
