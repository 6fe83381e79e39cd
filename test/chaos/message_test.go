package chaos

import (
	"svcproxy/model"
	"svcproxy/proxier"
)

// orders say what a victim is to do; they are the first thing that it reads.
type orders struct {
	Plane    string
	Families []model.Family
	Fault    fault
}

// fault is the moment at which a victim stops, to be killed: at one of the calls of Apply for one family.
type fault struct {
	Point  point
	Family model.Family
	// Call counts from 1; the first is the full comparison after the start.
	Call int
}

// point is a place within a call of Apply.
type point uint8

const (
	// nowhere lets the victim run on, until it is killed at any moment.
	nowhere point = iota
	// beforeWrite is before anything is sent to the kernel.
	beforeWrite
	// beforeAcknowledgement is after the kernel's write and before Apply returns.
	beforeAcknowledgement
)

func (p point) String() string {
	return [...]string{"at a random moment", "before the kernel's write", "before the acknowledgement"}[p]
}

// update tells a victim what changed. It holds lists, since gob knows no nil in maps.
type update struct {
	Services     []*model.Service
	Slices       []*model.Slice
	GoneServices []model.ServiceName
	GoneSlices   []model.SliceName
	// Synced says that these and what came before are all that there is.
	Synced bool
}

// objects returns the update as a sink takes it.
func (u *update) objects() proxier.Objects {
	o := proxier.NewObjects()
	for _, s := range u.Services {
		o.Services[s.Name] = s
	}
	for _, s := range u.Slices {
		o.Slices[s.Name] = s
	}
	for _, name := range u.GoneServices {
		o.Services[name] = nil
	}
	for _, name := range u.GoneSlices {
		o.Slices[name] = nil
	}
	return *o
}

// event is what a victim tells about one call of Apply.
type event struct {
	What   happening
	Family model.Family
	Full   bool
	Err    string
}

type happening uint8

const (
	applied happening = iota
	failed
	// stopped says that the victim is where the fault wants it, and goes no further.
	stopped
)
