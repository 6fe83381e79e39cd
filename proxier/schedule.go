package proxier

import "time"

// Pacing that is not an option.
const (
	// driftDelay lets a program that changes rules one by one come to an end before they are repaired.
	driftDelay = 100 * time.Millisecond
	// retryFirst and retryMost bound the time from a failed sync to the next. It doubles.
	retryFirst = 500 * time.Millisecond
	retryMost  = 30 * time.Second
	// fightRepairs is how many repairs within fightWindow are taken for accidents.
	fightRepairs = 5
	fightWindow  = time.Minute
	// fightFirst and fightMost bound the time that repairs are held back in a fight. It doubles.
	fightFirst = 2 * time.Second
	fightMost  = 5 * time.Minute
)

// schedule decides when the next sync of a family is due. It reads no clock: every method is told the
// time.
//
// A change is applied at once, though no sooner than minInterval after the last sync ended, as kube-proxy
// does. A failed sync is repeated with growing delays, and meanwhile changes wait, since every retry is a
// full comparison. Drift is repaired after driftDelay, until that has to be done too often.
type schedule struct {
	minInterval, fullInterval time.Duration
	// jitter spreads a time, so that the nodes of a cluster don't act in step.
	jitter func(time.Duration) time.Duration

	ended    time.Time // the last sync
	changed  bool
	failures int
	retry    time.Time
	full     time.Time
	drift    time.Time // zero if none was seen
	trial    time.Time // of a Service in quarantine, or zero
	fight    fight
}

// fight tells whether others keep undoing repairs.
type fight struct {
	repairs []time.Time
	hold    time.Duration // 0 while there is no fight
}

// next returns when the next sync is due.
func (s *schedule) next() time.Time {
	if s.failures > 0 {
		return s.retry
	}
	paced := s.ended.Add(s.minInterval)
	at := s.full
	if s.changed {
		at = earlier(at, paced)
	}
	if !s.trial.IsZero() {
		at = earlier(at, later(s.trial, paced))
	}
	if !s.drift.IsZero() {
		at = earlier(at, s.drift)
	}
	return at
}

// wantsFull tells whether a sync at a time must compare everything with the kernel.
func (s *schedule) wantsFull(now time.Time) bool {
	return !now.Before(s.full) || !s.drift.IsZero() && !now.Before(s.drift)
}

// drifted notes that others changed what is programmed. It tells whether that is news.
func (s *schedule) drifted(now time.Time) bool {
	if !s.drift.IsZero() {
		return false
	}
	s.drift = now.Add(driftDelay)
	if n := len(s.fight.repairs); s.fight.hold > 0 && n > 0 {
		s.drift = later(s.drift, s.fight.repairs[n-1].Add(s.fight.hold))
	}
	return true
}

// compare asks for a full sync as soon as may be.
func (s *schedule) compare(now time.Time) { s.full = earlier(s.full, now) }

// outcome is what a sync has to tell the schedule.
type outcome struct {
	full bool
	// drift says that others had changed something.
	drift bool
	err   error
	// trial is when the next Service in quarantine is to be tried, or zero.
	trial time.Time
}

// done notes that a sync ended. It tells whether a fight was found to begin or to grow.
func (s *schedule) done(now time.Time, o outcome) (fighting bool) {
	s.ended, s.changed, s.trial = now, false, o.trial
	asked := !s.drift.IsZero() && o.full
	if o.err != nil {
		s.failures++
		s.retry = now.Add(s.jitter(doubled(retryFirst, retryMost, s.failures-1)))
	} else {
		s.failures = 0
	}
	if o.full && o.err == nil {
		s.full = now.Add(s.jitter(s.fullInterval))
		s.drift = time.Time{}
	}
	if o.drift || asked && o.err == nil {
		return s.repaired(now)
	}
	return false
}

// repaired notes a repair, and lengthens the time that the next are held back if there are too many.
func (s *schedule) repaired(now time.Time) (fighting bool) {
	f := &s.fight
	f.repairs = append(f.repairs, now)
	if f.hold > 0 {
		f.repairs = f.repairs[len(f.repairs)-1:]
		f.hold = min(2*f.hold, fightMost)
		return true
	}
	for now.Sub(f.repairs[0]) > fightWindow {
		f.repairs = f.repairs[1:]
	}
	if len(f.repairs) > fightRepairs {
		f.hold = fightFirst
		return true
	}
	return false
}

// peace ends a fight in which nothing had to be repaired for long enough, and tells whether it did.
func (s *schedule) peace(now time.Time) bool {
	at := s.peaceAt()
	if at.IsZero() || now.Before(at) || !s.drift.IsZero() {
		return false
	}
	s.fight = fight{}
	return true
}

// peaceAt is when a fight is over if nothing has to be repaired until then; zero without a fight.
func (s *schedule) peaceAt() time.Time {
	f := &s.fight
	if f.hold == 0 {
		return time.Time{}
	}
	return f.repairs[len(f.repairs)-1].Add(f.hold + fightWindow)
}

// doubled returns first, doubled n times, and at most most.
func doubled(first, most time.Duration, n int) time.Duration {
	for ; n > 0 && first < most; n-- {
		first *= 2
	}
	return min(first, most)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
