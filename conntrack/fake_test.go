package conntrack

import (
	"context"
	"net/netip"
	"slices"

	"svcproxy/model"
)

// fakeKernel is a connection tracking table in memory.
type fakeKernel struct {
	flows []Flow
	own   []netip.Prefix
	// open, list and remove may fail what is asked for, list after it was told how many flows were listed.
	open   func() error
	list   func(listed int) error
	remove func([]Flow) error
	// readings counts the lists that were asked for, left the tables that were not closed.
	readings, left int
}

func (k *fakeKernel) Open() (Table, error) {
	if k.open != nil {
		if err := k.open(); err != nil {
			return nil, err
		}
	}
	k.left++
	return &fakeTable{k}, nil
}

type fakeTable struct{ *fakeKernel }

func (k *fakeTable) Flows(_ context.Context, f model.Family, _ model.Protocol, yield func(Flow) bool) error {
	k.readings++
	for i, flow := range slices.Clone(k.flows) {
		if k.list != nil {
			if err := k.list(i); err != nil {
				return err
			}
		}
		if model.FamilyOf(flow.Original.Dest.Addr()) == f && !yield(flow) {
			return nil
		}
	}
	if k.list != nil {
		return k.list(len(k.flows))
	}
	return nil
}

func (k *fakeTable) Delete(_ context.Context, _ model.Family, flows []Flow) (deleted int, err error) {
	if k.remove != nil {
		if err := k.remove(flows); err != nil {
			return 0, err
		}
	}
	for _, f := range flows {
		if i := slices.Index(k.flows, f); i >= 0 {
			k.flows = slices.Delete(k.flows, i, i+1)
			deleted++
		}
	}
	return deleted, nil
}

func (k *fakeTable) Own(context.Context, model.Family) ([]netip.Prefix, error) { return k.own, nil }

func (k *fakeTable) Close() error {
	k.left--
	return nil
}
