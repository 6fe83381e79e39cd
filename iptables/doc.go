// Package iptables programs the plan of one IP family into the kernel as the chains that kube-proxy's
// iptables mode makes: KUBE-SERVICES leads to a KUBE-SVC- chain for each Service port, that to a KUBE-SEP-
// chain for each endpoint, and that translates. Names, comments and the order within a chain are
// kube-proxy's, so that what operators know of them holds.
//
// Render turns a plan into a Ruleset, which is a value; Parse reads one back from what iptables-save
// prints, on the legacy and on the nf_tables kernel API alike. A Backend compares the two and rewrites only
// the chains that differ, with one transaction of iptables-restore a table.
//
// What is not a ClusterIP leads through KUBE-EXT-, where routes part: pods and the node itself take a short
// cut to all endpoints (KUBE-SVC-) where outsiders get this node's (KUBE-SVL-). KUBE-FW- looks at the source
// ranges of load balancers. The filter table refuses what nat left untranslated: KUBE-SERVICES for
// ClusterIPs, KUBE-EXTERNAL-SERVICES for the rest, KUBE-PROXY-FIREWALL for sources out of range.
//
// Differences from kube-proxy, apart from rules for nfacct counters:
//
//   - The node's own connections to an external address without endpoints are refused like anybody's, by a last
//     rule of KUBE-SERVICES in the filter table.
//   - Source ranges hold for a load balancer without endpoints too: who is out of range is dropped, not refused.
//   - What is refused at an external address of the node is not let in by a node port of the same number.
//   - Node ports that only some addresses have are limited by prefixes, not by a list of addresses, and so is
//     their refusal. An address that the node gets later needs no change.
//   - The rule against CVE-2020-8558 stands in KUBE-NODEPORTS of the filter table, is there only while node ports
//     answer on 127.0.0.0/8, and looks at the interface, so that the node's own connections are spared.
//     route_localnet stays set when svcproxy goes, as it does with kube-proxy.
//   - Several pod prefixes are possible.
//
// A new connection to one of the node's own addresses walks over KUBE-NODEPORTS, which is flat: some 3 ns for each
// node port, so that the whole default range of 2,768 would cost 8 µs. Other connections don't.
//
// REJECT sends an ICMP error, as kube-proxy does. Where client and node share a machine, as pods do, it
// often arrives while the client's socket is still locked by the connect that sent the packet; the kernel
// ignores it then (LockDroppedIcmps in /proc/net/netstat), and the client is refused only when it tries
// again, a second later.
//
// Unlike kube-proxy, KUBE-SERVICES does not stay flat: above a few hundred frontends it leads through
// chains that stand for address prefixes, so that a packet meets tens of rules and not thousands.
package iptables
