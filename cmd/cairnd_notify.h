/* The service manager's protocol (sd_notify(3)), as far as one datagram goes. */
#ifndef CAIRN_CMD_NOTIFY_H
#define CAIRN_CMD_NOTIFY_H

/* Send state, such as "READY=1", to $NOTIFY_SOCKET; without that, or on failure, do nothing. */
void cairn_notify(const char *state);

#endif
