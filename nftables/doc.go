// Package nftables programs Services with nf_tables, over netlink alone, in one table for each IP family:
// "ip svcproxy" and "ip6 svcproxy".
//
// Services and endpoints are elements of maps; chains and rules grow only with the distinct numbers of
// endpoints. A new connection meets one rule in a base chain, which looks its destination up in the map
// services and goes to chain lb-N, N being the number of endpoints. There it is translated by the map
// endpoints at a random index below N:
//
//	ip daddr . meta l4proto . th dport vmap @services
//	dnat ip to ip daddr . meta l4proto . th dport . numgen random mod N map @endpoints
//	dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
//	drop
//
// A commit is atomic, but a packet makes two lookups, and a commit may come between them. The second rule
// catches a packet whose index is gone since, because index 0 exists as long as there is any endpoint. The
// third keeps one that finds no endpoint at all from leaving untranslated, which would poison connection
// tracking; its sender tries again, as TCP does by itself, and is then rejected. Kernels before about 6.17
// may also miss a single lookup while a set changes; only Linux 6.18 was measured.
//
// A packet for a ClusterIP in use, but for none of its ports, is rejected, and one for an address in a known
// range of Services that none has is dropped: both in the base chains, as reject works in NAT chains since
// Linux 5.9.
//
// Masquerading needs no mark: in postrouting, connection tracking knows the original destination. Where the
// prefixes of pods are known, connections to a ClusterIP from other sources are masqueraded, the node's own
// among them, as kube-proxy does. An endpoint that is sent to itself always is; since a plan does not say
// which endpoints are on this node, the set hairpin has a pair for each of them.
//
// Render computes the Ruleset of a plan, a pure value. One Diff compares two of them, for an incremental
// change the parts that the change touches and for a full one the whole of what was observed, and its
// result is written as one transaction, or as ordered ones where the kernel caps the socket's buffer.
//
// google/nftables writes. It is not used for reading, where it drops the expressions and element flags that
// it does not know, so that a rule changed by somebody else could pass for ours.
package nftables
