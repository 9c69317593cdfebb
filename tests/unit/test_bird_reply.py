"""What BIRD 2.0.12 said, word for word, and what we understand."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from live.bird_reply import (
    Channel,
    ReplyLine,
    parse_bfd_sessions,
    parse_routes,
    parse_sessions,
    split_reply,
)

PROTOCOLS = """\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     07:56:22.868  
1006-
1002-vips4      Static     master4    up     07:56:22.868  
1006-  Channel ipv4
     State:          UP
     Routes:         1 imported, 0 exported, 1 preferred
 
1002-peer_with_a_long_name BGP        ---        up     2026-11-22    Established   
1006-  BGP state:          Established
     Neighbor address: fe80::2%eth0
     Neighbor AS:      4248829953
     Local AS:         8103
   Channel ipv4
     State:          UP
     Table:          master4
     Routes:         2 imported, 3 filtered, 4 exported, 1 preferred
     Route change stats:     received   rejected   filtered    ignored   accepted
       Import updates:              1          0          0          0          1
   Channel ipv6
     State:          DOWN
     Table:          master6
 
1002-peer_b     BGP        ---        start  2026-11-23 07:56:22.868  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: 127.0.0.2
     Neighbor AS:      65002
     Last error:       Socket: Connection refused
 
1002-peer_c     BGP        ---        down   07:56:22.868  
1006-  BGP state:          Down
     Neighbor range:   127.0.1.0/24
     Neighbor AS:      65002
 
0000 
"""  # noqa: W291, W293  # the blanks are BIRD's

BFD = """\
1020-bfd1:
 IP address                Interface  State      Since         Interval  Timeout
 fe80::2                   eth0       Up         07:56:22.870    0.300    1.500
 127.0.0.2                 ---        Down       07:56:22.870    1.000    0.000
0000 
"""  # noqa: W291  # the blanks and tabs are BIRD's

ROUTES = """\
1007-Table master4:
 20.0.0.1/32          blackhole [vips4 07:56:22.868] * (200)
 0.0.0.0/0            unicast [peer_a 07:56:23.111] * (100) [AS4248829953i]
 	via 169.254.100.150 on net1
                      unicast [peer_b 2026-11-22 from 169.254.100.151] (100) [AS4248829953i]
 	via 169.254.100.151 on net1 weight 1
 	via 169.254.101.151 on net2 weight 1
1007-
 Table master6:
 ::/0                 unicast [peer_a 07:56:23.111] * (100) [AS4248829953i]
 	via 100:100::150 on net1
0000 
"""  # noqa: W291, E101  # the blanks and tabs are BIRD's


def reply(text: str) -> tuple[ReplyLine, ...]:
    lines = split_reply(text.encode())
    assert lines is not None
    return lines


def test_a_reply_is_whole_only_with_its_last_line() -> None:
    data = PROTOCOLS.encode()
    assert split_reply(b"") is None
    assert all(split_reply(data[:cut]) is None for cut in range(len(data) - 1))
    assert split_reply(data) is not None


def test_echoed_log_lines_are_left_out() -> None:
    assert split_reply(b"+bgp1: Connected\n0003 Reconfigured\n") == (ReplyLine(code=3, text="Reconfigured"),)


def test_another_server_on_the_socket_is_noticed() -> None:
    with pytest.raises(ValueError, match="HTTP"):
        split_reply(b"HTTP/1.1 400 Bad Request\n\n")


def test_sessions() -> None:
    established, refused, disabled = parse_sessions(reply(PROTOCOLS), parse_bfd_sessions(reply(BFD)))
    assert established.name == "peer_with_a_long_name"
    assert established.established
    assert established.since == "2026-11-22"
    assert established.neighbor == ip_address("fe80::2%eth0")
    assert established.neighbor_asn == 4248829953
    assert established.bfd == "Up"
    assert established.channels == (
        Channel(name="ipv4", up=True, imported=2, exported=4),
        Channel(name="ipv6", up=False),
    )
    assert (refused.state, refused.established, refused.bfd) == ("Active", False, "Down")
    assert refused.since == "2026-11-23 07:56:22.868"
    assert refused.last_error == "Socket: Connection refused"
    assert (disabled.state, disabled.neighbor, disabled.bfd) == ("Down", None, None)


def test_bfd_sessions() -> None:
    up, down = parse_bfd_sessions(reply(BFD))
    assert (up.address, up.interface, up.interval_s, up.timeout_s) == (ip_address("fe80::2"), "eth0", 0.3, 1.5)
    assert (down.interface, down.state) == ("", "Down")
    assert parse_bfd_sessions(reply("9001 There is no BFD protocol running\n")) == ()


def test_routes() -> None:
    vip, default_a, default_b, default_6 = parse_routes(reply(ROUTES))
    assert (vip.prefix, vip.kind, vip.protocol, vip.best, vip.next_hops) == (
        ip_network("20.0.0.1/32"),
        "blackhole",
        "vips4",
        True,
        (),
    )
    assert default_a.next_hops == ((ip_address("169.254.100.150"), "net1"),)
    assert default_b.prefix == ip_network("0.0.0.0/0")
    assert not default_b.best
    assert [interface for _, interface in default_b.next_hops] == ["net1", "net2"]
    assert default_6.prefix == ip_network("::/0")
