"""The virtual network: hosts, wires, routers, impairments and captures, all inside one throw-away set of namespaces.

How the parts come together (`scenarios` does it; every part is a plain object that knows only those before it):

    sandbox.enter([...])                                   # this process is replaced; the rest happens inside
    network = VirtualNetwork(seed=1)                       # topology: bridges and hosts, added while it runs
    network.start()

    control = ControlPlane(network, run_dir=…, log_dir=…)  # sim.cluster: host `control-plane`, API server, its own process
    control.start()
    api = live.kube.connect(control.kubeconfig)            # given to sim as a core.kube.KubeApi

    workloads = Workloads(api)                             # Deployments, DaemonSets -> Pods, bound to nodes
    kubelet = Kubelet(api, network, KubeletSettings(…))    # Pods -> hosts, networks (Multus), processes; adds the nodes
    workloads.start(); kubelet.start()

    bird = add_router(network, OutsideRouter(network=vlan_bridge(200), …), run_dir=…, log_dir=…)
    bird.start()                                           # routers: sessions, BFD, routes by `observe`, `wait_for`
    client = TrafficClient(network, "vpn-b", log=…)        # traffic: exact 5-tuples in, one result a flow out
    Impairments(network).blackhole("some-pod")             # impair: cut, blackhole, loss, rate, delay
    Capture(network, "some-pod", "eth0", path).start()     # capture: pcap

`capabilities.require` says what the machine lacks before anything is started. Nothing has to be taken apart: the namespaces end with
the process, by whatever signal.
"""
