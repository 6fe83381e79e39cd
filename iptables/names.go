package iptables

import (
	"net/netip"
	"strings"

	"svcproxy/model"
)

// The tables that hold chains of svcproxy.
const (
	tableFilter = "filter"
	tableNAT    = "nat"
)

// tableNames lists the tables in the order in which rulesets hold them, which is alphabetical as in
// iptables-save.
var tableNames = []string{tableFilter, tableNAT}

// The chains that serve all Services. The names are kube-proxy's.
const (
	chainServices    = "KUBE-SERVICES"
	chainForward     = "KUBE-FORWARD"
	chainPostrouting = "KUBE-POSTROUTING"
	chainMarkMasq    = "KUBE-MARK-MASQ"
	// chainNodePorts serves node ports in the nat table, and accepts health checks in the filter table.
	chainNodePorts = "KUBE-NODEPORTS"
	// chainExternal refuses connections to external addresses and node ports, and chainFirewall those to load
	// balancers that their source ranges do not allow.
	chainExternal = "KUBE-EXTERNAL-SERVICES"
	chainFirewall = "KUBE-PROXY-FIREWALL"
)

// chainCanary is in each table that svcproxy programs and in none that it does not. It tells that the
// KUBE- chains of the table are svcproxy's, since kube-proxy uses the same names, and its one rule tells,
// while it stands, that nobody flushed the table.
const chainCanary = "SVCPROXY-CANARY"

// chainKubeProxyCanary is kube-proxy's: where it stands, kube-proxy has run since svcproxy last took over.
const chainKubeProxyCanary = "KUBE-PROXY-CANARY"

// sharedChains are those that svcproxy or kube-proxy makes once.
var sharedChains = map[string]bool{
	chainServices:        true,
	chainForward:         true,
	chainPostrouting:     true,
	chainMarkMasq:        true,
	chainNodePorts:       true,
	chainExternal:        true,
	chainFirewall:        true,
	chainCanary:          true,
	chainKubeProxyCanary: true,
}

// servicePrefixes begin the names of the chains that svcproxy or kube-proxy makes for Services. It is also
// all that kube-proxy's own clean-up knows of them.
var servicePrefixes = []string{
	model.ServiceChainPrefix, model.EndpointChainPrefix, localPrefix, firewallPrefix, externalPrefix,
}

// Prefixes of the chains of a Service port, besides those that balance over all its endpoints and those of
// single endpoints: the chain that balances over this node's endpoints, the one that all but ClusterIPs lead
// to, and the one that looks at the source ranges of load balancers.
const (
	localPrefix    = "KUBE-SVL-"
	externalPrefix = "KUBE-EXT-"
	firewallPrefix = "KUBE-FW-"
)

// portChain names a chain of a Service port.
func portChain(prefix string, n model.ServicePortName) string {
	return prefix + strings.TrimPrefix(model.ServiceChain(n), model.ServiceChainPrefix)
}

// owned tells whether a chain belongs to the Service proxy of the node, be it svcproxy or kube-proxy. Other
// KUBE- chains are not its own: KUBE-FIREWALL, KUBE-MARK-DROP and KUBE-KUBELET-CANARY are kubelet's, and
// network plugins make more.
func owned(chain string) bool {
	if sharedChains[chain] {
		return true
	}
	for _, prefix := range servicePrefixes {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// dispatchChain names the chain that serves those frontends of a chain whose addresses are in a prefix. The
// name begins as that of a Service's chain, which makes kube-proxy's clean-up remove it: a chain that it does
// not know and that refers to one that it deletes would make all its transactions fail. What is hashed for a
// Service ends in a protocol's name and never in a digit.
func dispatchChain(root string, p netip.Prefix) string {
	what := "prefix "
	if root != chainServices {
		what = root + " prefix "
	}
	return model.ServiceChainPrefix + model.ChainHash(what+p.String())
}

// remoteChain marks connections whose source is in none of several prefixes.
var remoteChain = model.ServiceChainPrefix + model.ChainHash("sources outside of all pod prefixes")
