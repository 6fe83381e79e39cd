package conntrack

import (
	"encoding/binary"
	"errors"
	"slices"
	"syscall"
	"testing"

	"svcproxy/model"
)

// listed appends a flow as the kernel lists it, among attributes that nobody reads here.
func (m *message) listed(f Flow, flags uint16) {
	at := m.begin(newFlowType, flags|2, 1, model.FamilyOf(f.Original.Dest.Addr()))
	m.tuple(ctaOriginal, f.Protocol, f.Original)
	m.tuple(ctaReply, f.Protocol, f.Reply)
	m.attribute(3, 0, 0, 0, 0x0e) // CTA_STATUS
	m.attribute(ctaID, binary.BigEndian.AppendUint32(nil, f.ID)...)
	if f.Zone != 0 {
		m.attribute(ctaZone, binary.BigEndian.AppendUint16(nil, f.Zone)...)
	}
	m.attribute(11, 0, 0, 0, 1) // CTA_USE
	m.end(at)
}

// finished appends the end of a list.
func (m *message) finished(flags uint16, result int32) {
	at := len(*m)
	m.begin(doneType, flags|2, 1, model.IPv4)
	*m = native.AppendUint32((*m)[:at+headerSize], uint32(result))
	m.end(at)
}

func read(t *testing.T, r *reading, b message) (flows []Flow, more bool, err error) {
	t.Helper()
	more, err = r.datagram(b, func(f Flow) bool { flows = append(flows, f); return true })
	return flows, more, err
}

func TestFlowsOfADatagram(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		zoned := flow(w.f, w.to(96, 10, 53), w.pod(4))
		zoned.Zone, zoned.ID = 9, 1<<31+5
		want := []Flow{flow(w.f, w.to(96, 10, 53), w.pod(3)), zoned}
		var m message
		for _, f := range want {
			m.listed(f, 0)
		}
		got, more, err := read(t, new(reading), m)
		if !slices.Equal(got, want) || !more || err != nil {
			t.Errorf("read %v, %t, %v; want %v and more", got, more, err, want)
		}
		m.finished(0, 0)
		if got, more, err := read(t, new(reading), m); len(got) != 2 || more || err != nil {
			t.Errorf("read %v, %t, %v; want the end", got, more, err)
		}
	})
}

func TestZoneOfOneDirection(t *testing.T) {
	f := flow(model.IPv4, newWorld(model.IPv4).pod(1), newWorld(model.IPv4).pod(2))
	var m message
	m.nest(ctaOriginal, func() { m.attribute(tupleZone, 0, 4) })
	m.tuple(ctaReply, f.Protocol, f.Reply)
	if got, err := decodeFlow(m); got.Zone != 4 || err != nil {
		t.Errorf("zone %d, %v; want 4", got.Zone, err)
	}
}

func TestListsThatAreNotComplete(t *testing.T) {
	f := flow(model.IPv4, newWorld(model.IPv4).pod(1), newWorld(model.IPv4).pod(2))
	for what, c := range map[string]struct {
		flags uint16
		end   int32
		want  error
	}{
		"marked":             {interruptFlag, 0, ErrInterrupted},
		"ended by a signal":  {0, -int32(syscall.EINTR), ErrInterrupted},
		"no buffers":         {0, -int32(syscall.ENOBUFS), ErrInterrupted},
		"permission refused": {0, -int32(syscall.EPERM), syscall.EPERM},
		"complete":           {0, 0, nil},
	} {
		var m message
		m.listed(f, c.flags)
		m.listed(f, 0)
		m.finished(0, c.end)
		flows, more, err := read(t, new(reading), m)
		if len(flows) != 2 || more || !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %d flows, %t, %v; want 2, %v", what, len(flows), more, err, c.want)
		}
	}
}

func TestDeletionsNameATupleAndAnID(t *testing.T) {
	// The kernel takes a deletion without a tuple for one of all flows.
	each(t, func(t *testing.T, w *world) {
		flows := []Flow{flow(w.f, w.to(96, 10, 53), w.pod(3)), flow(w.f, w.to(96, 10, 53), w.pod(4))}
		flows[1].ID = 77
		b := deleteMessages(nil, w.f, flows, 5)
		for i, want := range flows {
			size := native.Uint32(b)
			if kind, sequence := native.Uint16(b[4:]), native.Uint32(b[8:]); kind != deleteFlowType || sequence != uint32(5+i) {
				t.Errorf("message of kind %d and number %d", kind, sequence)
			}
			got, err := decodeFlow(b[headerSize+familySize : size])
			if err != nil || got.Reply != want.Reply || got.ID != want.ID || got.Protocol != want.Protocol {
				t.Errorf("deletes %v, %v; want %v", got, err, want)
			}
			b = b[size:]
		}
	})
}

func TestAnswersToDeletions(t *testing.T) {
	answer := func(number uint32, result syscall.Errno) (m message) {
		at := m.begin(errorType, 0, number, model.IPv4)
		m = native.AppendUint32(m[:headerSize], uint32(-int32(result)))
		m.end(at)
		return m
	}
	d := deletions{first: 3, last: 6}
	if more, err := d.datagram(slices.Concat(answer(3, syscall.ENOENT), answer(5, syscall.EPERM))); !more || err != nil {
		t.Fatalf("%t, %v: the last is not answered yet", more, err)
	}
	if more, err := d.datagram(answer(6, 0)); more || err != nil {
		t.Fatalf("%t, %v: the last is answered", more, err)
	}
	if d.missing != 1 || d.failed != syscall.EPERM {
		t.Errorf("%d missing, error %v", d.missing, d.failed)
	}
	if _, err := d.datagram(answer(9, 0)); !errors.Is(err, errMalformed) {
		t.Errorf("an answer to something else: %v", err)
	}
}

func TestAMillionFlowsAreDecodedInPlace(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var m message
		for i := range 100 {
			m.listed(flow(w.f, w.to(96, 10, 53), w.pod(i%9+1)), 0)
		}
		var r reading
		n := 0
		count := func(Flow) bool { n++; return true }
		bytes := allocated(func() {
			for range 10_000 {
				if _, err := r.datagram(m, count); err != nil {
					t.Fatal(err)
				}
			}
		})
		if n != 1_000_000 || bytes > 64<<10 {
			t.Errorf("%d flows, %d bytes allocated", n, bytes)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	var m message
	m.listed(flow(model.IPv4, newWorld(model.IPv4).pod(1), newWorld(model.IPv4).pod(2)), 0)
	m.listed(flow(model.IPv6, newWorld(model.IPv6).pod(1), newWorld(model.IPv6).pod(2)), interruptFlag)
	m.finished(0, 0)
	f.Add([]byte(m))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r reading
		_, _ = r.datagram(b, func(f Flow) bool { _ = f.String(); return true })
		d := deletions{first: 1, last: 9}
		_, _ = d.datagram(b)
	})
}
