/* Several nodes: what preheat, jobs, versions and prune print of them. */
#ifndef CAIRN_CMD_CAIRNCTL_FLEET_H
#define CAIRN_CMD_CAIRNCTL_FLEET_H

#include "cmd/cairnctl.h"

/* ---- the nodes of a job ---- */

const char *ctl_node_state(Cairn__V1__JobNode__State state);
bool ctl_node_over(Cairn__V1__JobNode__State state);
json_t *ctl_json_node(const Cairn__V1__JobNode *node);
void ctl_print_node_head(void);
/* A row on a terminal, a line in a pipe, an object. */
void ctl_print_node(const struct ctl *ctl, const Cairn__V1__JobNode *node);
/* On standard error, if it has not succeeded: what is wrong with it. */
void ctl_tell_node(const Cairn__V1__JobNode *node);

/* The nodes as they were told last. Zero at first. */
struct ctl_nodes {
	Cairn__V1__JobNode **list; /* owned */
	size_t n, cap;
};
/* Remember it. Returns whether its state is another one now. */
bool ctl_nodes_take(struct ctl_nodes *nodes, const Cairn__V1__JobNode *node);
void ctl_nodes_fini(struct ctl_nodes *nodes);

/* ---- verbs, of several nodes; the exit status ---- */

int ctl_fleet_versions(struct ctl *ctl, const char *name);
int ctl_fleet_prune(struct ctl *ctl, const Cairn__V1__PruneRequest *request);

#endif
