package world

import (
	"errors"
	"hash/fnv"
	"math/rand/v2"
	"sync"

	"svcproxy/model"
)

// sourcePorts hands out source ports. Each is used once for a protocol and family, since the second
// connection from one could belong to the tracked flow of the first and be balanced no more.
type sourcePorts struct {
	seed uint64
	mu   sync.Mutex
	left map[flowSpace][]int
}

type flowSpace struct {
	protocol model.Protocol
	family   model.Family
}

// Source ports are above those of servers, and beside the range of node ports (30000 to 32767), so that a
// flow of the node's own has no node port by chance. Their order is the same in every run, and another at
// every place: when masqueraded flows of one port begin at the same time, the kernel drops one of them.
const (
	firstSourcePort = 10_000
	firstNodePort   = 30_000
	lastNodePort    = 32_767
)

func newSourcePorts(place string) *sourcePorts {
	h := fnv.New64a()
	h.Write([]byte(place))
	return &sourcePorts{seed: h.Sum64(), left: map[flowSpace][]int{}}
}

func (s *sourcePorts) next(protocol model.Protocol, f model.Family) (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	space := flowSpace{protocol, f}
	left, begun := s.left[space]
	if !begun {
		left = rand.New(rand.NewPCG(s.seed, uint64(protocol))).Perm(65536 - firstSourcePort)
	}
	for i, n := range left {
		if port := firstSourcePort + n; port < firstNodePort || port > lastNodePort {
			s.left[space] = left[i+1:]
			return uint16(port), nil
		}
	}
	return 0, errors.New("no source port left that was not in use before")
}
