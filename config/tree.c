#include "config/tree.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "config/config.h"

struct builder {
	const char *name;
	struct cairn_err *err;
	struct cairn_node *open[CAIRN_TREE_DEPTH_MAX]; /* lists and maps around what comes next */
	size_t depth;
	struct cairn_node *root;
	char *key; /* read, its value not yet */
	size_t nodes, documents;
};

static enum cairn_code bad(struct builder *b, size_t line, const char *what)
{
	return cairn_err_set(b->err, CAIRN_INVALID_ARGUMENT, "%s:%zu: %s", b->name, line, what);
}

void cairn_tree_free(struct cairn_node *node)
{
	while (node != NULL) {
		struct cairn_node *next = node->next;
		cairn_tree_free(node->first); /* as deep as CAIRN_TREE_DEPTH_MAX */
		free(node->key);
		free(node->text);
		free(node);
		node = next;
	}
}

static struct cairn_node *inner(struct builder *b)
{
	return b->depth > 0 ? b->open[b->depth - 1] : NULL;
}

static char *copy_text(const yaml_event_t *event)
{
	char *s = strndup((const char *)event->data.scalar.value, event->data.scalar.length);
	if (s == NULL) abort();
	return s;
}

static enum cairn_code take_key(struct builder *b, const yaml_event_t *event, size_t line)
{
	char *key = copy_text(event);
	for (const struct cairn_node *n = inner(b)->first; n != NULL; n = n->next) {
		if (strcmp(n->key, key) != 0) continue;
		enum cairn_code rc = cairn_err_set(b->err, CAIRN_INVALID_ARGUMENT,
						   "%s:%zu: key %.100s is given twice, first in "
						   "line %zu",
						   b->name, line, key, n->line);
		free(key);
		return rc;
	}
	b->key = key;
	return CAIRN_OK;
}

/* Hang a node in where it belongs. */
static enum cairn_code add(struct builder *b, const yaml_event_t *event, enum cairn_node_kind kind,
			   size_t line)
{
	struct cairn_node *parent = inner(b);
	if (++b->nodes > CAIRN_TREE_NODES_MAX) return bad(b, line, "too many values");
	if (kind != CAIRN_NODE_SCALAR && b->depth == CAIRN_TREE_DEPTH_MAX) {
		return bad(b, line, "values nest too deep");
	}
	if (parent == NULL && b->root != NULL) return bad(b, line, "more than one value");
	struct cairn_node *node = calloc(1, sizeof(*node));
	if (node == NULL) abort();
	node->kind = kind;
	node->line = line;
	node->key = cairn_steal(&b->key);
	if (kind == CAIRN_NODE_SCALAR) {
		node->text = copy_text(event);
		node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	} else {
		b->open[b->depth++] = node;
	}
	if (parent == NULL) {
		b->root = node;
	} else if (parent->first == NULL) {
		parent->first = parent->last = node;
	} else {
		parent->last->next = node;
		parent->last = node;
	}
	return CAIRN_OK;
}

static enum cairn_code on_scalar(struct builder *b, const yaml_event_t *event, size_t line)
{
	const yaml_char_t *value = event->data.scalar.value;
	if (event->data.scalar.anchor != NULL) return bad(b, line, "anchors are not allowed");
	if (event->data.scalar.tag != NULL) return bad(b, line, "tags are not allowed");
	if (event->data.scalar.length > CAIRN_CONFIG_TEXT_MAX) {
		return bad(b, line, "a value too long");
	}
	if (memchr(value, '\0', event->data.scalar.length) != NULL) {
		return bad(b, line, "a value holds a zero byte");
	}
	struct cairn_node *in = inner(b);
	if (in != NULL && in->kind == CAIRN_NODE_MAP && b->key == NULL) {
		return take_key(b, event, line);
	}
	return add(b, event, CAIRN_NODE_SCALAR, line);
}

static enum cairn_code on_start(struct builder *b, const yaml_event_t *event, size_t line)
{
	bool map = event->type == YAML_MAPPING_START_EVENT;
	const yaml_char_t *anchor =
		map ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
	const yaml_char_t *tag =
		map ? event->data.mapping_start.tag : event->data.sequence_start.tag;
	if (anchor != NULL) return bad(b, line, "anchors are not allowed");
	if (tag != NULL) return bad(b, line, "tags are not allowed");
	struct cairn_node *in = inner(b);
	if (in != NULL && in->kind == CAIRN_NODE_MAP && b->key == NULL) {
		return bad(b, line, "a key must be a plain name");
	}
	return add(b, event, map ? CAIRN_NODE_MAP : CAIRN_NODE_LIST, line);
}

static enum cairn_code on_event(struct builder *b, const yaml_event_t *event)
{
	size_t line = event->start_mark.line + 1;
	switch (event->type) {
	case YAML_DOCUMENT_START_EVENT:
		if (++b->documents > 1) return bad(b, line, "more than one document");
		return CAIRN_OK;
	case YAML_ALIAS_EVENT:
		return bad(b, line, "aliases are not allowed");
	case YAML_SCALAR_EVENT:
		return on_scalar(b, event, line);
	case YAML_SEQUENCE_START_EVENT:
	case YAML_MAPPING_START_EVENT:
		return on_start(b, event, line);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		b->depth--;
		return CAIRN_OK;
	default:
		return CAIRN_OK;
	}
}

enum cairn_code cairn_tree_parse(const char *name, const char *text, size_t len,
				 struct cairn_node **ret, struct cairn_err *err)
{
	yaml_parser_t parser;
	if (!yaml_parser_initialize(&parser)) abort();
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	struct builder b = {.name = name, .err = err};
	enum cairn_code rc = CAIRN_OK;
	for (bool end = false; rc == CAIRN_OK && !end;) {
		yaml_event_t event;
		if (!yaml_parser_parse(&parser, &event)) {
			rc = cairn_err_set(err, CAIRN_INVALID_ARGUMENT,
					   "%s:%zu: not valid YAML: %s", name,
					   parser.problem_mark.line + 1,
					   parser.problem != NULL ? parser.problem : "no memory");
			break;
		}
		end = event.type == YAML_STREAM_END_EVENT;
		rc = on_event(&b, &event);
		yaml_event_delete(&event);
	}
	yaml_parser_delete(&parser);
	free(b.key);
	if (rc) {
		cairn_tree_free(b.root);
		return rc;
	}
	*ret = b.root;
	return CAIRN_OK;
}
