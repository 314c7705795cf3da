/* Work for several nodes: what the two sides of proto/fleet.proto share. */
#ifndef CAIRN_PLUGIN_FLEET_H
#define CAIRN_PLUGIN_FLEET_H

#include <stdbool.h>

#define CAIRN_FLEET_BLOBS_MAX 16 /* that are not there, told of one node */

/* Is this what a job is called that another node may begin, ask for, or cancel here? */
bool cairn_fleet_is_node_job(const char *id);

#endif
