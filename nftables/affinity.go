package nftables

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// Session affinity remembers for each client and list of endpoints the endpoint in the map affinity, whose
// keys and values are of 32 bits beside the client's address: a packet carries a value from one lookup to
// the next in its mark. So lists and endpoints have ids. They are hashes of names that never change, so
// that what was learned holds after a restart and an endpoint that left is not taken for a new one. An endpoint
// that comes back has its id again: what was learned of it is deleted when it leaves.

// listID returns the id of a list of a Service port, in the kernel's bytes. Should two lists share one, their
// common clients are remembered for the list they used last.
func listID(n model.ServicePortName, local bool) string {
	if local {
		return hashID("local list", n, "", 0)
	}
	return hashID("list", n, "", 0)
}

// endpointIDs returns an id for each endpoint of one of a Service port's lists, each another than those that are
// taken, which it adds to: a frontend may lead to both lists. An endpoint in both has two, so that one that leaves
// only one list is forgotten there.
func endpointIDs(n model.ServicePortName, local bool, endpoints []plan.Endpoint, taken map[string]bool) []string {
	kind := "endpoint"
	if local {
		kind = "local endpoint"
	}
	out := make([]string, 0, len(endpoints))
	for _, e := range endpoints {
		at := e.AddrPort().String()
		id := hashID(kind, n, at, 0)
		for salt := 1; taken[id]; salt++ {
			id = hashID(kind, n, at, salt)
		}
		taken[id] = true
		out = append(out, id)
	}
	return out
}

func hashID(kind string, n model.ServicePortName, endpoint string, salt int) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{kind, n.Service.Namespace, n.Service.Name, n.Port, n.Protocol.String(),
		endpoint, strconv.Itoa(salt)}, "\x00")))
	return string(binary.NativeEndian.AppendUint32(nil, binary.BigEndian.Uint32(sum[:])))
}

// binding is what a client can have learned: the ids of a list and of an endpoint in it.
type binding struct{ list, endpoint string }

// bindings returns all that clients can learn from a ruleset, or a part of one.
func bindings(r *Ruleset) map[binding]bool {
	out := map[binding]bool{}
	lists, picks := r.Sets[affinityListsMap], r.Sets[affinityPicksMap]
	if lists == nil || picks == nil {
		return out
	}
	for key, el := range picks.Elements {
		n := len(key) - 4
		first := uint32(0)
		if binary.NativeEndian.Uint32([]byte(key[n:])) >= localOffset {
			first = localOffset
		}
		if list, ok := lists.Elements[endpointKey(key[:n], first)]; ok {
			out[binding{list.Data, el.Data}] = true
		}
	}
	return out
}

// departed returns the bindings that a change takes away. One that makes the table anew takes all that was
// learned with it.
func departed(d *Delta, have, want *Ruleset) map[binding]bool {
	if d.remake != "" || d.sets[affinityPicksMap] == nil && d.sets[affinityListsMap] == nil {
		return nil
	}
	gone := bindings(have)
	for b := range bindings(want) {
		delete(gone, b)
	}
	return gone
}

// releaseReads is how often the map affinity is read for clients to release. The kernel may leave elements out
// of a list while packets add others, so a list without any of them must follow; each list has fewer.
const releaseReads = 4

// release deletes what clients have learned of endpoints that have left, so that they are free if an endpoint
// comes back. Its cost grows with the number of learned clients: 20,000 of 50,000 took 0.2 to 0.9 s. Should it
// fail, the next change tries again: no rule follows what leads to no endpoint. A client that gets another endpoint
// between the reading and the deletion is released from that one too.
func (b *Backend) release(ctx context.Context) {
	for range releaseReads {
		if len(b.departed) == 0 {
			return
		}
		var bound []KeyedElement
		err := b.kernel.learned(ctx, func(el KeyedElement) {
			if n := len(el.Key) - 4; b.departed[binding{el.Key[n:], el.Data}] {
				bound = append(bound, el)
			}
		})
		if err == nil && len(bound) == 0 {
			clear(b.departed)
			return
		}
		for batch := range slices.Chunk(bound, releaseBatch) {
			err = errors.Join(err, b.unlearn(batch))
		}
		if err != nil {
			b.log.Warn("Clients of endpoints that left are not yet forgotten", zap.Error(err))
			return
		}
	}
}

// releaseBatch is how many elements are deleted in a transaction, all of which must be there still.
const releaseBatch = 256

// unlearn deletes elements of the map affinity, those that have expired meanwhile excepted.
func (b *Backend) unlearn(elements []KeyedElement) error {
	err := b.commit([]op{{verb: deleteElements, set: &Set{SetSpec: learnedSpec(b.family)}, elements: elements}})
	switch n := len(elements); {
	case unknownOutcome(err):
		return errors.Join(err, b.kernel.reopen())
	case n == 1 && errors.Is(err, syscall.ENOENT):
		return nil
	case n > 1 && (errors.Is(err, syscall.ENOENT) || tooLong(err)):
		return errors.Join(b.unlearn(elements[:n/2]), b.unlearn(elements[n/2:]))
	}
	return err
}
