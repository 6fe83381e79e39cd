package cgroup

import "slices"

// Without takes controllers away, as on a machine that has not mounted them; "" is v2.
func (p *Parent) Without(controllers ...string) {
	for _, c := range controllers {
		delete(p.bases, c)
	}
}

// WithControllerOnV2 makes another controller of v2 one that groups below are to have.
func (p *Parent) WithControllerOnV2(controller string) { p.onV2 = []string{controller} }

// Base is the folder that the parent's groups are made in.
func (p *Parent) Base(controller string) string { return p.bases[controller] }

// Folders are the group's own, each once.
func (g *Group) Folders() []string {
	var dirs []string
	for _, dir := range g.dirs {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}
