#include "p2p/memory_nodes.h"

#include <stdlib.h>
#include <string.h>

#include "p2p/rendezvous.h"

void nodes_init(struct nodes *nodes)
{
	*nodes = (struct nodes){0};
	for (int i = 0; i < NODE_BUCKETS; i++) nodes->buckets[i] = NODE_NONE;
}

void nodes_fini(struct nodes *nodes)
{
	for (uint32_t i = 0; i < nodes->n; i++) free(nodes->all[i].address);
	free(nodes->all);
}

static uint32_t *bucket_of(struct nodes *nodes, const char *address)
{
	return &nodes->buckets[cairn_rendezvous_node(address) % NODE_BUCKETS];
}

uint32_t nodes_find(const struct nodes *nodes, const char *address)
{
	uint32_t i = nodes->buckets[cairn_rendezvous_node(address) % NODE_BUCKETS];
	while (i != NODE_NONE && strcmp(nodes->all[i].address, address) != 0) {
		i = nodes->all[i].next;
	}
	return i;
}

static void unlink_node(struct nodes *nodes, uint32_t node)
{
	uint32_t *at = bucket_of(nodes, nodes->all[node].address);
	while (*at != node) at = &nodes->all[*at].next;
	*at = nodes->all[node].next;
}

/* A slot of its own for an address that is new: one of the forgotten when there are many. */
static uint32_t slot_for(struct nodes *nodes, const char *address)
{
	uint32_t i = 0;
	if (nodes->n < CAIRN_MEMBERS_MAX) {
		if (nodes->n == nodes->room) {
			nodes->room = nodes->room > 0 ? 2 * nodes->room : 16;
			nodes->all = realloc(nodes->all, nodes->room * sizeof(nodes->all[0]));
			if (nodes->all == NULL) abort();
		}
		i = nodes->n++;
	} else {
		while (i < nodes->n && nodes->all[i].life != 0) i++;
		if (i == nodes->n) return NODE_NONE;
		unlink_node(nodes, i);
		free(nodes->all[i].address);
	}
	uint32_t *bucket = bucket_of(nodes, address);
	nodes->all[i] = (struct node){.address = strdup(address), .next = *bucket};
	if (nodes->all[i].address == NULL) abort();
	*bucket = i;
	return i;
}

bool nodes_hear(struct nodes *nodes, const char *address, int64_t now_ms, struct said *ret)
{
	if (strlen(address) >= CAIRN_ADDRESS_MAX) return false;
	uint32_t i = nodes_find(nodes, address);
	if (i == NODE_NONE) i = slot_for(nodes, address);
	if (i == NODE_NONE) return false;
	struct node *node = &nodes->all[i];
	if (node->life == 0) {
		node->life = ++nodes->lives;
		nodes->live++;
	}
	node->heard_ms = now_ms;
	*ret = (struct said){.node = i, .life = node->life};
	return true;
}

void nodes_forget(struct nodes *nodes, uint32_t node)
{
	if (nodes->all[node].life == 0) return;
	nodes->all[node].life = 0;
	nodes->live--;
}
