package cgroup

import "context"

// Group is the cgroup of a pod or a container. Its methods are safe for concurrent use.
type Group struct{}

// Parent is the cgroup of a sandbox.
type Parent struct{}

// Open finds where groups can be made; it makes nothing. The name begins with "svcproxy-".
func Open(name string) (*Parent, error) { return nil, checkParentName(name) }

// Supported says which limits groups below the parent can have.
func (p *Parent) Supported() Support { return Support{} }

// New makes a pod's group.
func (p *Parent) New(name string, l Limits) (*Group, error) { return nil, l.checkNew() }

// Close removes the parent and all groups below it, after killing what is in them.
func (p *Parent) Close() error { return nil }

// New makes a container's group in a pod's.
func (g *Group) New(name string, l Limits) (*Group, error) { return nil, l.checkNew() }

// Add moves a process, with all its threads, into the group.
func (g *Group) Add(pid int) error { return nil }

// Set changes the limits of a running group.
func (g *Group) Set(l Limits) error { return l.check() }

// Limits are those last set.
func (g *Group) Limits() Limits { return Limits{} }

// Stats reads what the group uses.
func (g *Group) Stats() (Stats, error) { return Stats{}, nil }

// OOMKillCount is the number of processes of the group and those below it that were killed for lack of memory.
func (g *Group) OOMKillCount() (uint64, error) { return 0, nil }

// OOMKills sends the count each time that it has grown, until ctx ends or the group is closed.
func (g *Group) OOMKills(ctx context.Context) <-chan uint64 { return nil }

// Kill kills every process in the group and below, and waits until none is left.
func (g *Group) Kill() error { return nil }

// Close kills what is in the group and removes it.
func (g *Group) Close() error { return nil }

// Path is the group's path below where the parent is, such as "svcproxy-default/web/main".
func (g *Group) Path() string { return "" }

// Paths are the group's folders by controller ("" is v2's).
func (g *Group) Paths() map[string]string { return nil }

// Remove removes the groups of that name that a killed program left, if no process is in them.
func Remove(name string) error { return checkParentName(name) }

// List is the names of parents with this prefix that exist now.
func List(prefix string) ([]string, error) { return nil, nil }
