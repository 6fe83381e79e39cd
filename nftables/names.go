package nftables

import (
	"strings"

	"svcproxy/model"
	"svcproxy/plan"
)

// Names of the sets and chains. The kernel allows 31 characters in a set's name on its oldest versions.
const (
	endpointsMap         = "endpoints"
	servicesMap          = "services"
	servicesOutsideMap   = "services-ext"
	limitedSet           = "lb-limited"
	sourceRangesSet      = "lb-source-ranges"
	affinityListsMap     = "affinity-lists"
	affinityPicksMap     = "affinity-picks"
	affinityEndpointsMap = "affinity-endpoints"
	affinityMap          = "affinity"
	clusterIPsSet        = "cluster-ips"
	hairpinSet           = "hairpin"
	podNetsSet           = "pod-nets"
	nodePortNetsSet      = "node-port-nets"
	serviceCIDRsSet      = "service-cidrs"

	preroutingChain       = "prerouting"
	outputChain           = "output"
	postroutingChain      = "postrouting"
	preroutingFilterChain = "prerouting-filter"
	outputFilterChain     = "output-filter"
	sourceRangesChain     = "source-ranges"
	nodePortsChain        = "node-ports"
	noEndpointsChain      = "no-endpoints"
)

// maxComment is the most characters of a comment that nft takes.
const maxComment = 128

// kindSuffixes follow the name in the comments of frontends whose address does not tell their kind.
var kindSuffixes = map[plan.FrontendKind]string{plan.ExternalIP: " ExternalIP", plan.LoadBalancer: " LoadBalancer"}

// maxName is the most characters of a name in a comment, so that the longest suffix fits behind it.
const maxName = maxComment - len(" LoadBalancer")

// comment returns the comment of a frontend's element: the Service port's name, or, where nft could not read
// the name back, as much of it as fits, "~" and the hash that names its chain in iptables mode; and behind it
// the kind of the frontend, if its address does not tell it.
func comment(n model.ServicePortName, kind plan.FrontendKind) string {
	name := n.String()
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' || r == '~' {
			return '?'
		}
		return r
	}, name)
	if clean != name || len(name) > maxName {
		hash := strings.TrimPrefix(model.ServiceChain(n), model.ServiceChainPrefix)
		clean = clean[:min(len(clean), maxName-1-len(hash))] + "~" + hash
	}
	return clean + kindSuffixes[kind]
}

// splitComment returns the name and the kind in a comment. The kind is ClusterIP if it names none.
func splitComment(text string) (name string, kind plan.FrontendKind) {
	for kind, suffix := range kindSuffixes {
		if name, ok := strings.CutSuffix(text, suffix); ok {
			return name, kind
		}
	}
	return text, plan.ClusterIP
}

// parseName returns the Service port that the name in a comment tells, as far as it does, and the name of its
// chain in iptables mode.
func parseName(text string, p model.Protocol) (name model.ServicePortName, chain string) {
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
	frontend := addr + 8
	return []SetSpec{
		{Name: endpointsMap, Map: true, KeyLen: frontend + 4, DataLen: addr + 4},
		{Name: servicesMap, Map: true, Verdict: true, KeyLen: frontend},
		{Name: servicesOutsideMap, Map: true, Verdict: true, KeyLen: frontend},
		{Name: limitedSet, KeyLen: frontend},
		{Name: sourceRangesSet, Ranges: true, KeyLen: frontend + addr},
		{Name: affinityListsMap, Map: true, KeyLen: frontend + 4, DataLen: 4},
		{Name: affinityPicksMap, Map: true, KeyLen: frontend + 4, DataLen: 4},
		{Name: affinityEndpointsMap, Map: true, KeyLen: frontend + 4, DataLen: addr + 4},
		learnedSpec(f),
		{Name: clusterIPsSet, KeyLen: addr},
		{Name: hairpinSet, KeyLen: 2 * addr},
		{Name: podNetsSet, Interval: true, KeyLen: addr},
		{Name: nodePortNetsSet, Interval: true, KeyLen: addr},
		{Name: serviceCIDRsSet, Interval: true, KeyLen: addr},
	}
}

// learnedSpec returns the map affinity.
func learnedSpec(f model.Family) SetSpec {
	return SetSpec{Name: affinityMap, Map: true, Learned: true, KeyLen: uint32(f.Bits()/8) + 4, DataLen: 4}
}

// ownSets hold elements that each belong to one Service alone; a fragment has a list for each, by this order.
var ownSets = [...]string{endpointsMap, affinityEndpointsMap, affinityPicksMap, affinityListsMap, sourceRangesSet,
	limitedSet, servicesOutsideMap, servicesMap}

// Indices in ownSets.
const (
	ownEndpoints = iota
	ownAffinityEndpoints
	ownAffinityPicks
	ownAffinityLists
	ownSourceRanges
	ownLimited
	ownServicesOutside
	ownServices
)

// minSetSizes are the least sizes that sets are made with. The map affinity never has another: clients beyond
// it connect without being remembered.
var minSetSizes = map[string]uint32{
	endpointsMap:         1 << 17,
	servicesMap:          1 << 14,
	servicesOutsideMap:   1 << 12,
	limitedSet:           1 << 12,
	affinityListsMap:     1 << 12,
	affinityPicksMap:     1 << 14,
	affinityEndpointsMap: 1 << 14,
	affinityMap:          1 << 18,
	clusterIPsSet:        1 << 14,
	hairpinSet:           1 << 14,
}

// setSize returns the size to make a set with that shall hold n elements, at least twice as many: the
// kernel makes a sized set faster, but can't enlarge it, so outgrowing it means making the table anew.
// Sets of intervals have none.
func setSize(spec SetSpec, n int) uint32 {
	if spec.Interval || spec.Ranges {
		return 0
	}
	size := max(minSetSizes[spec.Name], 1)
	for uint64(size) < 2*uint64(n) {
		size *= 2
	}
	return size
}
