package proxier

import (
	"errors"
	"iter"
	"maps"
	"slices"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// errInterfered says that the search for the Service at fault proved nothing.
var errInterfered = errors.New("what is programmed was changed by others during the search for a Service at fault")

// search finds the Services that the kernel refuses, by halving, since it names none; quarantines them,
// and applies the rest. At first only the Services that changed are suspects, and all others are brought
// into the kernel before. If that is refused as well, everybody is a suspect. If the kernel refuses even a
// change that holds everybody, no Service is at fault, and its refusal is returned.
//
// Suspects keep what was acknowledged for them until it is their turn; only after a start, when nothing
// was, do they lack rules for so long.
func (a *application) search(cause error) error {
	suspects := slices.SortedFunc(maps.Keys(a.changed), model.ServiceName.Compare)
	decisions := a.changed
	err := cause
	if len(suspects) > 0 {
		err = a.compare(setOf(suspects))
	}
	if refused(err) {
		decisions = a.planner.Plan().Services
		for name := range a.acked {
			if _, planned := decisions[name]; !planned {
				decisions[name] = nil
			}
		}
		suspects = slices.SortedFunc(maps.Keys(decisions), model.ServiceName.Compare)
		err = a.compare(setOf(suspects))
	}
	if err != nil {
		return err
	}
	if err := a.program(a.units(suspects, decisions), decisions); err != nil {
		return err
	}
	return a.verdict()
}

// verdict compares everything once more. If others changed what was programmed meanwhile, that may be why
// the kernel refused, and nobody stays in quarantine for it.
func (a *application) verdict() error {
	drift := a.report.drift
	if err := a.compare(nil); err != nil {
		return err
	}
	if a.report.drift == drift {
		return nil
	}
	for _, name := range a.isolated {
		delete(a.quarantine, name)
	}
	return errInterfered
}

// program applies the decisions about some units, and isolates those that are refused.
func (a *application) program(units [][]model.ServiceName, decisions map[model.ServiceName]*plan.Service) error {
	if len(units) == 0 {
		return nil
	}
	err := a.incremental(only(slices.Concat(units...), decisions))
	if !refused(err) {
		return err
	}
	if len(units) == 1 {
		return a.untangle(units[0], decisions, err)
	}
	a.log.Debug("halving", zap.Int("services", len(units)))
	half := len(units) / 2
	if err := a.program(units[:half], decisions); err != nil {
		return err
	}
	return a.program(units[half:], decisions)
}

// untangle finds who is at fault in one unit. Of several Services that hand frontends to each other all
// are withdrawn first, so that each can be tried by itself.
func (a *application) untangle(unit []model.ServiceName, decisions map[model.ServiceName]*plan.Service, cause error) error {
	if len(unit) == 1 {
		a.isolate(unit[0], decisions[unit[0]], cause)
		return nil
	}
	if err := a.incremental(only(unit, nil)); err != nil {
		return err
	}
	for _, name := range unit {
		err := a.incremental(only([]model.ServiceName{name}, decisions))
		if refused(err) {
			a.isolate(name, decisions[name], err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// units groups Services so that no two units share a frontend, be it one that was acknowledged or one that
// is to be.
func (a *application) units(names []model.ServiceName, decisions map[model.ServiceName]*plan.Service) [][]model.ServiceName {
	parent := make([]int, len(names))
	root := func(i int) int {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	first := map[plan.FrontendKey]int{}
	for i, name := range names {
		parent[i] = i
		for _, s := range []*plan.Service{a.acked[name], decisions[name]} {
			for key := range frontends(s) {
				if other, taken := first[key]; taken {
					parent[root(i)] = root(other)
				} else {
					first[key] = i
				}
			}
		}
	}
	grouped := map[int][]model.ServiceName{}
	for i, name := range names {
		grouped[root(i)] = append(grouped[root(i)], name)
	}
	var units [][]model.ServiceName
	for _, i := range slices.Sorted(maps.Keys(grouped)) {
		units = append(units, grouped[i])
	}
	return units
}

// frontends yields the frontends of a decision, or none of nil.
func frontends(s *plan.Service) iter.Seq[plan.FrontendKey] {
	return func(yield func(plan.FrontendKey) bool) {
		if s == nil {
			return
		}
		for _, port := range s.Ports {
			for _, f := range port.Frontends {
				if !yield(f.FrontendKey) {
					return
				}
			}
		}
	}
}

// only returns the decisions about the named Services: nil about those it has none of.
func only(names []model.ServiceName, decisions map[model.ServiceName]*plan.Service) map[model.ServiceName]*plan.Service {
	some := make(map[model.ServiceName]*plan.Service, len(names))
	for _, name := range names {
		some[name] = decisions[name]
	}
	return some
}

func setOf(names []model.ServiceName) map[model.ServiceName]bool {
	set := make(map[model.ServiceName]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}
