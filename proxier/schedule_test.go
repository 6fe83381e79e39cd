package proxier

import (
	"errors"
	"testing"
	"time"
)

func newSchedule() *schedule {
	s := &schedule{minInterval: time.Second, fullInterval: 5 * time.Minute, jitter: func(d time.Duration) time.Duration { return d }}
	s.done(start, outcome{full: true})
	return s
}

func (s *schedule) dueAfter(t *testing.T, now time.Time, want time.Duration) {
	t.Helper()
	if got := s.next().Sub(now); got != want {
		t.Errorf("the next sync is due after %v, want %v", got, want)
	}
}

func TestFirstSyncIsDueAtOnce(t *testing.T) {
	s := &schedule{minInterval: time.Second}
	if s.next().After(start) || !s.wantsFull(start) {
		t.Error("the first sync is not due at once and full")
	}
}

func TestChangesAreAppliedAtOnceButNoSoonerThanMinInterval(t *testing.T) {
	s := newSchedule()
	s.dueAfter(t, start, 5*time.Minute)
	s.changed = true
	s.dueAfter(t, start, time.Second)
	quiet := start.Add(time.Minute)
	if s.next().After(quiet) || s.wantsFull(quiet) {
		t.Error("a change after a quiet time is not applied at once")
	}
}

func TestFailuresBackOffAndChangesWaitForTheRetry(t *testing.T) {
	s, now := newSchedule(), start
	for _, want := range []time.Duration{500, 1000, 2000, 4000, 8000, 16000, 30000, 30000} {
		s.done(now, outcome{full: true, err: errors.New("no")})
		s.changed = true
		s.dueAfter(t, now, want*time.Millisecond)
		now = s.next()
	}
	s.done(now, outcome{full: true})
	s.dueAfter(t, now, 5*time.Minute)
}

func TestDriftIsRepairedSoonWhateverTheMinInterval(t *testing.T) {
	s := newSchedule()
	if !s.drifted(start) || s.drifted(start) {
		t.Error("the first notice is news, the second is not")
	}
	s.dueAfter(t, start, driftDelay)
	if !s.wantsFull(s.next()) {
		t.Error("a repair must be full")
	}
}

func TestServicesInQuarantineWakeTheSchedule(t *testing.T) {
	s := newSchedule()
	s.done(start, outcome{trial: start.Add(10 * time.Second)})
	s.dueAfter(t, start, 10*time.Second)
}

func TestAFightIsHeldBackAndEnds(t *testing.T) {
	s, now := newSchedule(), start
	repair := func() bool {
		s.drifted(now)
		now = s.next()
		return s.done(now, outcome{full: true, drift: true})
	}
	for i := range fightRepairs {
		if repair() {
			t.Fatalf("repair %d counts as a fight", i+1)
		}
	}
	if !repair() {
		t.Fatal("a sixth repair within a minute is no fight")
	}
	for _, want := range []time.Duration{2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		s.drifted(now)
		s.dueAfter(t, now, want*time.Second)
		repair()
	}
	if s.peace(now.Add(fightMost)) {
		t.Error("peace too soon")
	}
	now = now.Add(fightMost + fightWindow)
	if !s.peace(now) {
		t.Error("no peace after a quiet time")
	}
	s.drifted(now)
	s.dueAfter(t, now, min(driftDelay, s.full.Sub(now)))
}

func TestAccidentsAreNoFight(t *testing.T) {
	s, now := newSchedule(), start
	for range 50 {
		now = now.Add(15 * time.Second)
		s.drifted(now)
		if s.done(now.Add(driftDelay), outcome{full: true, drift: true}) {
			t.Fatal("four repairs a minute count as a fight")
		}
	}
}
