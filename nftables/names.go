package nftables

import (
	"strconv"
	"strings"

	"svcproxy/model"
)

// Names of the sets and chains. The kernel allows 31 characters in a set's name on its oldest versions.
const (
	servicesMap     = "services"
	endpointsMap    = "endpoints"
	clusterIPsSet   = "cluster-ips"
	hairpinSet      = "hairpin"
	podNetsSet      = "pod-nets"
	serviceCIDRsSet = "service-cidrs"

	preroutingChain  = "prerouting"
	outputChain      = "output"
	postroutingChain = "postrouting"
	noEndpointsChain = "no-endpoints"
	balancePrefix    = "lb-"
)

// balanceChain returns the name of the chain that balances over n endpoints.
func balanceChain(n uint32) string { return balancePrefix + strconv.FormatUint(uint64(n), 10) }

// parseBalanceChain returns the number of endpoints that a chain balances over.
func parseBalanceChain(name string) (n uint32, ok bool) {
	digits, ok := strings.CutPrefix(name, balancePrefix)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(digits, 10, 32)
	return uint32(v), err == nil && v > 0 && balanceChain(uint32(v)) == name
}

// maxComment is the most characters of a comment that nft takes.
const maxComment = 128

// comment returns the comment of a Service port's elements: its name, or, where nft could not read the name
// back, as much of it as fits, "~" and the hash that names its chain in iptables mode.
func comment(n model.ServicePortName) string {
	name := n.String()
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' || r == '~' {
			return '?'
		}
		return r
	}, name)
	if clean == name && len(name) <= maxComment {
		return name
	}
	hash := strings.TrimPrefix(model.ServiceChain(n), model.ServiceChainPrefix)
	return clean[:min(len(clean), maxComment-1-len(hash))] + "~" + hash
}

// parseComment returns the name that a comment carries, as far as it does, and the name of its chain in
// iptables mode.
func parseComment(text string, p model.Protocol) (name model.ServicePortName, chain string) {
	short, hash, cut := strings.Cut(text, "~")
	name.Protocol = p
	var rest string
	name.Service.Namespace, rest, _ = strings.Cut(short, "/")
	name.Service.Name, name.Port, _ = strings.Cut(rest, ":")
	if cut {
		return name, model.ServiceChainPrefix + hash
	}
	return name, model.ServiceChain(name)
}

// setSpecs returns the sets of a family's table, in the order in which they are made and printed.
func setSpecs(f model.Family) []SetSpec {
	addr := uint32(f.Bits() / 8)
	return []SetSpec{
		{Name: endpointsMap, Map: true, KeyLen: addr + 12, DataLen: addr + 4},
		{Name: servicesMap, Map: true, Verdict: true, KeyLen: addr + 8},
		{Name: clusterIPsSet, KeyLen: addr},
		{Name: hairpinSet, KeyLen: 2 * addr},
		{Name: podNetsSet, Interval: true, KeyLen: addr},
		{Name: serviceCIDRsSet, Interval: true, KeyLen: addr},
	}
}

// minSetSizes are the least sizes that sets are made with.
var minSetSizes = map[string]uint32{
	endpointsMap:  1 << 17,
	servicesMap:   1 << 14,
	clusterIPsSet: 1 << 14,
	hairpinSet:    1 << 14,
}

// setSize returns the size to make a set with that shall hold n elements, at least twice as many: the
// kernel makes a sized set faster, but can't enlarge it, so outgrowing it means making the table anew.
// Interval sets have none.
func setSize(spec SetSpec, n int) uint32 {
	if spec.Interval {
		return 0
	}
	size := max(minSetSizes[spec.Name], 1)
	for uint64(size) < 2*uint64(n) {
		size *= 2
	}
	return size
}
