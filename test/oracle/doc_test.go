// Package oracle holds everything that decides about packets against everything else that does, over clusters
// that are drawn at random: the plan, the rules that nftables holds, the rules that iptables reads, and the
// kernel with real packets through namespaces. What a backend would render is never judged; what was parsed
// back is.
//
// A cluster that shows a difference is shrunk and printed as a manifest. As a file in testdata it is held
// against all of them in every run; that is where regressions stay.
package oracle
