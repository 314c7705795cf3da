/* A YAML document as a tree, with the lines its parts stand in: what config.c walks.
 *
 * Plain configuration only: aliases, anchors, tags and several documents are refused. */
#ifndef CAIRN_CONFIG_TREE_H
#define CAIRN_CONFIG_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/own.h"

#define CAIRN_TREE_DEPTH_MAX 8
#define CAIRN_TREE_NODES_MAX 65536

enum cairn_node_kind { CAIRN_NODE_SCALAR, CAIRN_NODE_LIST, CAIRN_NODE_MAP };

struct cairn_node {
	enum cairn_node_kind kind;
	size_t line; /* from 1 */
	char *key;   /* in a map; NULL elsewhere */
	char *text;  /* of a scalar */
	bool plain;  /* the scalar is not quoted */
	struct cairn_node *first, *last, *next;
};

/* *ret is NULL for an empty document. Errors: INVALID_ARGUMENT. */
CAIRN_CHECKED enum cairn_code cairn_tree_parse(const char *name, const char *text, size_t len,
					       struct cairn_node **ret, struct cairn_err *err);
void cairn_tree_free(struct cairn_node *node); /* NULL is fine */

#endif
