"""The load balancer in the kernel: two adapters of `core.ports.Dataplane`, packet by packet the same.

choose.py        which of the two: asked for, or the faster one that this machine lets us have
tc.py            BPF at the ingress of each interface; its parts:
  tc.bpf.c         the program, with tc_*.h: parse a packet, classify it, forward it, answer it
  tc_image.py      flows -> the decision image that the program walks: a pure function
  tc_program.py    the loaded program with its maps
  tc_places.py     where targets are
  tc_tables.py     what stands in the maps, and in which order it changes
  tc_slow.py       what the fast path cannot do by itself: fragments out of order, packets without offloads
  bpf.py           bpf(2); libbpf.py: the ELF object
fence.py         nothing of a VIP by the primary network, and what the gateway itself sends to a VIP; for both
loop.py          the device that leads that back in
egress.py        on which interface a target is
nft.py           nftables: for kernels and users that may not load BPF
"""
