package cluster

import (
	"context"
	"time"
)

// Summary is one sandbox of several.
type Summary struct {
	Name string
	// PID is the supervisor's outermost process, 0 if it has ended.
	PID int
	// Created is zero for one that was never up.
	Created time.Time
	// Status is nil for a sandbox that is down but left something, and for one that does not answer.
	Status *Status
	// Err is why it does not answer though it runs.
	Err error
}

// statusTimeout is how long a supervisor may take to say how it is.
const statusTimeout = 5 * time.Second

// List names this user's sandboxes, also those of which only something is left.
func List(root string) ([]string, error) {
	all, err := folders(root)
	var names []string
	for _, f := range all {
		names = append(names, f.name())
	}
	return names, err
}

// Summaries describes this user's sandboxes.
func Summaries(ctx context.Context, root, version string) ([]Summary, error) {
	all, err := folders(root)
	if err != nil {
		return nil, err
	}
	var summaries []Summary
	for _, f := range all {
		summaries = append(summaries, f.summary(ctx, version))
	}
	return summaries, nil
}

func (f folder) summary(ctx context.Context, version string) Summary {
	s := Summary{Name: f.name()}
	r, err := f.readRecord()
	if err == nil && r != nil {
		s.Created = r.Created
		if now, err := findProcess(r.Processes[0].PID); err == nil && r.here() && now == r.Processes[0] {
			s.PID = now.PID
		}
	}
	if alive, err := f.alive(); err != nil || !alive {
		s.Err = err
		return s
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	c := &Client{folder: f, version: version}
	if s.Status, s.Err = c.Status(ctx); s.Err != nil {
		s.Status = nil
	}
	return s
}
