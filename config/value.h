/* The texts of single values. Each returns false if the text is none such, or too large. */
#ifndef CAIRN_CONFIG_VALUE_H
#define CAIRN_CONFIG_VALUE_H

#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"

/* A decimal number without sign. */
bool cairn_value_int(const char *text, uint64_t *ret);

/* "10s", "1h30m", "20ms": numbers with ms, s, m or h. In milliseconds. */
bool cairn_value_duration(const char *text, int64_t *ret_ms);

/* "4096", "64KiB", "200GiB", "1TB": bytes, with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB. */
bool cairn_value_size(const char *text, uint64_t *ret);

/* "80%" or a size. */
bool cairn_value_amount(const char *text, struct cairn_config_amount *ret);

/* "host:port", "[v6]:port", ":port"; port 0 to 65535. */
bool cairn_value_is_host_port(const char *text);

#endif
