/* The handlers of cairn.v1.Cairn that are long jobs (plugin/cairn_service_jobs.c). */
#ifndef CAIRN_PLUGIN_CAIRN_SERVICE_H
#define CAIRN_PLUGIN_CAIRN_SERVICE_H

#include "cairn.pb-c.h"
#include "plugin/plugin.h"

#define CAIRN_VERIFY_DIGESTS_MAX 10000 /* named in one call */
#define CAIRN_VERIFY_CALLS_MAX 4       /* at once */

enum cairn_code cairn_service_verify(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);
enum cairn_code cairn_service_import(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);
enum cairn_code cairn_service_export(void *service, struct cairn_call *call, const void *request,
				     struct cairn_err *err);

#endif
