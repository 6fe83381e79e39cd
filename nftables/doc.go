// Package nftables programs Services with nf_tables, over netlink alone, in one table for each IP family:
// "ip svcproxy" and "ip6 svcproxy".
//
// Services and endpoints are elements of maps; chains and rules grow only with the distinct ways to balance. A
// new connection meets one rule in a base chain, which looks its destination up in the map services and goes to
// the chain lb-N, N being the number of endpoints. There it is translated by the map endpoints at a random index
// below N:
//
//	ip daddr . meta l4proto . th dport vmap @services
//	dnat ip to ip daddr . meta l4proto . th dport . numgen random mod N map @endpoints
//	dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoints
//	drop
//
// A commit is atomic, but a packet makes two lookups, and a commit may come between them. The second rule
// catches a packet whose index is gone since, because the first index exists as long as there is any endpoint.
// The third keeps one that finds no endpoint at all from leaving untranslated, which would poison connection
// tracking; its sender tries again, as TCP does by itself, and is then rejected. Kernels before about 6.17
// may also miss a single lookup while a set changes; only Linux 6.18 was measured.
//
// # Ways to balance
//
// The name of a chain says what is special about it, as lb-nodeport-local-3-sticky-10800-masq:
//
//   - nodeport: the destination is one of the node's own addresses and is masked away; node ports are in all
//     maps under the unspecified address, and are looked for after every frontend with an address of its own.
//   - local: the endpoints are those on this node, which are in the map endpoints from index 65536 on. Where the
//     external traffic policy is Local, connections from outside meet a second element of the frontend in the map
//     services-ext. It is asked first in prerouting, and not at all for packets from pods or from the node.
//   - sticky-S: a client stays with its endpoint until it has made no connection for S seconds.
//   - masq-others, masq: the connections of all but pods, or all, are masqueraded: a bit of the packet mark is
//     set, which postrouting looks for and clears. Other bits of the mark are others'.
//
// An endpoint that is sent to itself is masqueraded too: the set hairpin has a pair for each that may ask this
// node, which pods known to be on another do only through external addresses.
//
// A load balancer's source ranges are tested in filter chains before any NAT, for new connections to frontends
// in the set lb-limited alone. A packet for a ClusterIP in use, but for none of its ports, is rejected, and one
// for an address in a known range of Services that none has is dropped, if the plan says so: both in the base
// chains, as reject works in NAT chains since Linux 5.9.
//
// # Session affinity
//
// The rules fill the map affinity themselves: its key is a client's address and the id of a list of endpoints, its
// value the id of one of them; affinity-lists, affinity-picks and affinity-endpoints lead from frontends to ids
// and back to endpoints. Ids are hashes of names, so that what was learned outlives a restart, and an endpoint
// that has left is not taken for a new one. A client whose endpoint left gets another; as soon as the change that
// took it away is made, what was learned of it is deleted, so that it is not bound to it again should it come
// back. A client that the full map has no room for connects all the same. What was learned is not compared. A changed time-out
// begins for each client with its next connection; until then the old one runs, where iptables mode counts anew.
//
// A lookup in another lookup's result makes nft 1.0.6 abort when it lists the rule, so such a result goes through
// the packet mark, which is put back at once. nft has no words for that: its listing shows the rules, but would
// load as others. Text has them in comments, so that what nft loads from it balances without affinity.
//
// # Working
//
// Render computes the Ruleset of a plan, a pure value, and Trace what one does with a packet. One Diff compares
// two of them, for an incremental change the parts that the change touches and for a full one the whole of what
// was observed, and its result is written as one transaction, or as ordered ones where the kernel caps the
// socket's buffer.
//
// google/nftables writes. It is not used for reading, where it drops the expressions and element flags that
// it does not know, so that a rule changed by somebody else could pass for ours.
package nftables
