/* What is counted, in Prometheus' text format 0.0.4. */
#ifndef CAIRN_PLUGIN_METRICS_H
#define CAIRN_PLUGIN_METRICS_H

#include "plugin/plugin.h"

/* Returned text is freed by the caller. Memory only, but for statvfs. */
char *cairn_metrics_write(const struct cairn_http_opts *opts, size_t *ret_len);

#endif
