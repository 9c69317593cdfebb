// SPDX-License-Identifier: Apache-2.0
/*
 * Traffic for `tidegate bench dataplane`, all of it made, carried and received by one thread on one CPU: the kernel handles a frame that
 * is sent into a veth in the context of its sender, so the CPU time of this thread is the CPU time of the whole way.
 *
 *   load udp CPU NETNS INTERFACE FRAMES          FRAMES: a file of frames of 60 bytes, sent in turn, each time from another UDP port
 *   load tcp CPU PORT ADDRESS CLIENT SERVER...   connections from the namespace CLIENT to ADDRESS:PORT, where SERVERs answer with a byte
 *   load sink CPU INTERFACE NETNS...             counts the UDP packets that arrive at INTERFACE in each NETNS, by their source port; after a
 *                                                line on standard input writes what the sockets lost (a line), then the counts (65536
 *                                                words of 32 bits for each NETNS)
 *
 * udp and tcp read a number from each line of standard input, send so many frames or make so many connections, and print the nanoseconds
 * of CPU time and of wall time that it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FRAME 60
#define BATCH 64
#define SOURCE_PORT 34 /* behind Ethernet and IPv4 without options */
#define AT_ONCE 32

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void enter(const char *netns)
{
	int fd = open(netns, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || setns(fd, CLONE_NEWNET))
		fail(netns);
	close(fd);
}

static int64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Calls `work` with each number that is asked for. */
static void serve(void (*work)(long))
{
	long count;

	while (scanf("%ld", &count) == 1) {
		int64_t cpu = now_ns(CLOCK_THREAD_CPUTIME_ID), wall = now_ns(CLOCK_MONOTONIC);

		work(count);
		cpu = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
		wall = now_ns(CLOCK_MONOTONIC) - wall;
		printf("%lld %lld\n", (long long)cpu, (long long)wall);
		fflush(stdout);
	}
}

/* --- frames ------------------------------------------------------------------------------------------------------------- */

static int packets;
static unsigned char (*frames)[FRAME];
static long frame_count, next_frame;
static uint32_t random_state = 1;

static void send_frames(long count)
{
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];

	memset(messages, 0, sizeof(messages));
	while (count > 0) {
		int n = count < BATCH ? count : BATCH, done = 0;

		for (int i = 0; i < n; i++) {
			unsigned char *frame = frames[next_frame];

			next_frame = (next_frame + 1) % frame_count;
			random_state = random_state * 1664525 + 1013904223;
			frame[SOURCE_PORT] = random_state >> 24;
			frame[SOURCE_PORT + 1] = random_state >> 16;
			parts[i] = (struct iovec){ frame, FRAME };
			messages[i].msg_hdr.msg_iov = &parts[i];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		while (done < n) {
			int sent = sendmmsg(packets, messages + done, n - done, 0);

			if (sent < 0 && errno != ENOBUFS && errno != EINTR)
				fail("sendmmsg");
			done += sent > 0 ? sent : 0;
		}
		count -= n;
	}
}

static void udp(char **arguments)
{
	struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP) };
	FILE *file = fopen(arguments[2], "rb");
	long bytes = 0;
	int one = 1;

	if (!file || fseek(file, 0, SEEK_END) || (bytes = ftell(file)) < FRAME)
		fail(arguments[2]);
	rewind(file);
	frame_count = bytes / FRAME;
	frames = malloc(frame_count * FRAME);
	if (fread(frames, FRAME, frame_count, file) != (size_t)frame_count)
		fail(arguments[2]);
	enter(arguments[0]);
	packets = socket(AF_PACKET, SOCK_RAW, 0);
	address.sll_ifindex = if_nametoindex(arguments[1]);
	if (packets < 0 || bind(packets, (struct sockaddr *)&address, sizeof(address)) ||
	    setsockopt(packets, SOL_PACKET, PACKET_QDISC_BYPASS, &one, sizeof(one)))
		fail(arguments[1]);
	serve(send_frames);
}

/* --- connections --------------------------------------------------------------------------------------------------------- */

#define SERVER (1ull << 32)
static int events;
static struct sockaddr_in peer;
static const char *client;

static void watch(int fd, uint64_t tag)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = tag | fd };

	if (epoll_ctl(events, EPOLL_CTL_ADD, fd, &event))
		fail("epoll_ctl");
}

static void begin_connection(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		fail("socket");
	if (connect(fd, (struct sockaddr *)&peer, sizeof(peer)) && errno != EINPROGRESS)
		fail("connect");
	watch(fd, 0);
}

static void answer(int listener)
{
	int fd;

	while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
		if (send(fd, "x", 1, MSG_NOSIGNAL) != 1)
			fail("send");
		close(fd);
	}
	if (errno != EAGAIN)
		fail("accept");
}

/* Whether the connection is over: a byte, then the end. */
static int finish(int fd)
{
	char bytes[2];
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
		;
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0)
		fail("recv");
	close(fd);
	return 1;
}

static void connect_all(long count)
{
	struct epoll_event ready[AT_ONCE];
	long begun = 0, over = 0;

	for (; begun < count && begun < AT_ONCE; begun++)
		begin_connection();
	while (over < count) {
		int n = epoll_wait(events, ready, AT_ONCE, 10000);

		if (n <= 0) {
			fprintf(stderr, "no answer: %ld of %ld connections are over\n", over, count);
			exit(1);
		}
		for (int i = 0; i < n; i++) {
			if (ready[i].data.u64 & SERVER) {
				answer((uint32_t)ready[i].data.u64);
			} else if (finish((uint32_t)ready[i].data.u64)) {
				over++;
				if (begun < count) {
					begun++;
					begin_connection();
				}
			}
		}
	}
}

static void tcp(char **arguments)
{
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(atoi(arguments[0])) };
	int one = 1;

	peer = any;
	if (inet_pton(AF_INET, arguments[1], &peer.sin_addr) != 1)
		fail(arguments[1]);
	client = arguments[2];
	events = epoll_create1(EPOLL_CLOEXEC);
	for (char **server = arguments + 3; *server; server++) {
		int fd;

		enter(*server);
		fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&any, sizeof(any)) || listen(fd, 1024))
			fail("listen");
		watch(fd, SERVER);
	}
	enter(client);
	serve(connect_all);
}

/* --- what arrives -------------------------------------------------------------------------------------------------------- */

#define MOST_SINKS 16
#define PORTS 65536
static uint32_t arrived[MOST_SINKS][PORTS];

/* Everything that has arrived at one socket. */
static void take(int fd, uint32_t *counts)
{
	static unsigned char room[BATCH][128];
	struct mmsghdr messages[BATCH];
	struct iovec parts[BATCH];
	int n;

	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){ room[i], sizeof(room[i]) };
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while ((n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, 0)) > 0)
		for (int i = 0; i < n; i++)
			/* IPv4 without options, UDP */
			if (messages[i].msg_len >= SOURCE_PORT + 2 && room[i][12] == 8 && room[i][14] == 0x45 && room[i][23] == 17)
				counts[room[i][SOURCE_PORT] << 8 | room[i][SOURCE_PORT + 1]]++;
}

static void sink(char **arguments)
{
	struct pollfd fds[MOST_SINKS + 1] = { { .fd = 0, .events = POLLIN } };
	int sinks = 0, buffer_bytes = 1 << 29;
	uint64_t lost = 0;
	char line[16];

	for (char **netns = arguments + 1; *netns && sinks < MOST_SINKS; netns++) {
		struct sockaddr_ll address = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL) };
		int fd;

		enter(*netns);
		fd = socket(AF_PACKET, SOCK_RAW, 0);
		address.sll_ifindex = if_nametoindex(arguments[0]);
		if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof(buffer_bytes)) ||
		    bind(fd, (struct sockaddr *)&address, sizeof(address)))
			fail(arguments[0]);
		fds[++sinks] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	printf("ready\n");
	fflush(stdout);
	while (poll(fds, sinks + 1, -1) > 0) {
		for (int i = 0; i < sinks; i++)
			take(fds[i + 1].fd, arrived[i]);
		if (fds[0].revents)
			break;
	}
	if (read(0, line, sizeof(line)) < 0)
		fail("stdin");
	for (int i = 0; i < sinks; i++) {
		struct tpacket_stats stats;
		socklen_t length = sizeof(stats);

		take(fds[i + 1].fd, arrived[i]);
		if (getsockopt(fds[i + 1].fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length))
			fail("PACKET_STATISTICS");
		lost += stats.tp_drops;
	}
	printf("%llu\n", (unsigned long long)lost);
	fwrite(arrived, sizeof(arrived[0]), sinks, stdout);
	fflush(stdout);
}

int main(int count, char **arguments)
{
	cpu_set_t set;

	if (count < 5)
		return 2;
	CPU_ZERO(&set);
	CPU_SET(atoi(arguments[2]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
	if (!strcmp(arguments[1], "udp"))
		udp(arguments + 3);
	else if (!strcmp(arguments[1], "tcp"))
		tcp(arguments + 3);
	else
		sink(arguments + 3);
	return 0;
}
