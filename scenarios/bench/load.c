// SPDX-License-Identifier: Apache-2.0
/*
 * Traffic for `tidegate bench dataplane`, all of it made, carried and received by one thread on one CPU: the kernel handles a frame that
 * is sent into a veth in the context of its sender, so the CPU time of this thread is the CPU time of the whole way.
 *
 *   load udp CPU NETNS INTERFACE FRAMES          FRAMES: a file of frames of 60 bytes, sent in turn, each time from another UDP port
 *   load tcp CPU PORT ADDRESS CLIENT SERVER...   connections from the namespace CLIENT to ADDRESS:PORT, where SERVERs answer with a byte
 *
 * Reads a number from each line of standard input, sends so many frames or makes so many connections, and prints the nanoseconds of
 * CPU time and of wall time that it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <linux/if_packet.h>
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

int main(int count, char **arguments)
{
	cpu_set_t set;

	if (count < 6)
		return 2;
	CPU_ZERO(&set);
	CPU_SET(atoi(arguments[2]), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
	if (!strcmp(arguments[1], "udp"))
		udp(arguments + 3);
	else
		tcp(arguments + 3);
	return 0;
}
