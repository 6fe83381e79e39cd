// Package iptables programs the plan of one IP family into the kernel as the chains that kube-proxy's
// iptables mode makes: KUBE-SERVICES leads to a KUBE-SVC- chain for each Service port, that to a KUBE-SEP-
// chain for each endpoint, and that translates. Names, comments and the order within a chain are
// kube-proxy's, so that what operators know of them holds.
//
// Render turns a plan into a Ruleset, which is a value; Parse reads one back from what iptables-save
// prints, on the legacy and on the nf_tables kernel API alike. A Backend compares the two and rewrites only
// the chains that differ, with one transaction of iptables-restore a table.
//
// Unlike kube-proxy, KUBE-SERVICES does not stay flat: above a few hundred frontends it leads through
// chains that stand for address prefixes, so that a packet meets tens of rules and not thousands.
package iptables
